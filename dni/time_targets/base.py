"""Targets of the time cut's predictor, window by window.

Window t maps its entering state s_{t-1} to its leaving state s_t, with J_t = ds_t/ds_{t-1}, and has a loss L_t, summed
over batch and time. g_t (B, F) is the synthetic gradient of s_t, zero in rows whose sequence ends there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dni.named_tensors import Value, map_tensors


@dataclass
class PastWindow:
    """A window that a stage has run, with the gradients that its backward pass used. Its tensors are read-only."""

    step: int
    value: Value  #: the input: (B, T, D) or integers (B, T), or a dict of named tensors
    labels: Tensor  #: (B, T), or (B,) for examples without time
    context: Tensor  #: the time cut's context: (B, L) labels after the window, or (B, H) inputs up to its end
    reset: Tensor  #: (B,) bool: a sequence starts with this window
    done: Tensor  #: (B,) bool: a sequence ends with this window
    output_gradient: Value | None  #: dL/d output used in the backward pass
    state: Tensor | None  #: (B, F), packed leaving state; None for a stateless stage
    state_gradient: Tensor | None  #: dL/d leaving state used in the backward pass

    def to(self, device: torch.device) -> PastWindow:
        """Return the window with all its tensors on one device."""
        tensors: dict[str, Any] = {n: t.to(device) for n, t in vars(self).items() if isinstance(t, Tensor)}
        tensors["value"] = map_tensors(lambda t: t.to(device), self.value)
        return replace(self, **tensors)


class StateTarget(NamedTuple):
    """The target gradient of one state."""

    step: int  #: the step at whose end the state left
    gradient: Tensor  #: (B, F)
    labels: Tensor | None = None  #: (B, L) labels after the state, if they were unknown at that step


class Bootstrap:
    """Bootstrapped targets: the gradient of a window's entering state is the target of the cut before that window.

        G_{t-1} = dL_t/ds_{t-1} + J_t^T g_t        (Jaderberg et al. 2017)

    The window's backward pass has computed it already. Other kinds of targets subclass this class.
    """

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """Return the targets of earlier states that are known after a window's backward pass.

        `gradient` is that of the window's entering state; None for a stateless stage.
        """
        return [] if gradient is None else [StateTarget(window.step - 1, gradient)]

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of `state_dict`."""
