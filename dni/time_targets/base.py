"""What the predictor of the time cut is taught, window by window.

A window t maps the state s_{t-1} that enters it to the state s_t that leaves it, J_t = ds_t/ds_{t-1}, and has a loss
L_t, summed over batch and time. g_t (B, F) is the synthetic gradient that the cut answers for s_t, zero in rows whose
sequence ends there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dni.named_tensors import Value, map_tensors


@dataclass
class PastWindow:
    """A window that a stage has run, and the gradients it was given. Nobody may write to its tensors any more."""

    step: int
    value: Value  #: what came in: (B, T, D) or integers (B, T), or a dict of named tensors
    labels: Tensor  #: (B, T); (B,) of examples that are no sequence
    context: Tensor  #: what the time cut sees beside the state: (B, L) labels after it, or (B, H) inputs up to its end
    reset: Tensor  #: (B,) bool: a sequence starts with this window
    done: Tensor  #: (B,) bool: a sequence ends with this window
    output_gradient: Value | None  #: dL/d output that was used
    state: Tensor | None  #: (B, F), as it left; None: the stage carries none
    state_gradient: Tensor | None  #: dL/d state that was used

    def to(self, device: torch.device) -> PastWindow:
        """The same window, all its tensors on one device."""
        tensors: dict[str, Any] = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        tensors["value"] = map_tensors(lambda t: t.to(device), self.value)
        return replace(self, **tensors)


class StateTarget(NamedTuple):
    """What the predictor of the time cut is taught of one state."""

    step: int  #: at which it left
    gradient: Tensor  #: (B, F)
    labels: Tensor | None = None  #: (B, L), where they were not known at that step


class Bootstrap:
    """The gradient of the state that enters a window is the target of the cut before it (Jaderberg et al. 2017).

        G_{t-1} = dL_t/ds_{t-1} + J_t^T g_t

    It is what one backward pass from the window's ends has found already. Base class of every other way.
    """

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """The targets of states that left earlier, once a window is done.

        `gradient` is what the backward pass found for the state that entered the window; None: there is no state.
        """
        return [] if gradient is None else [StateTarget(window.step - 1, gradient)]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on exactly here."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
