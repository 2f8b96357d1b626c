"""Recompute an earlier window exactly as it was run, without side effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dni.named_tensors import Value, map_tensors
from dni.stages.base import Stage
from dni.types import State


@dataclass
class SavedWindow:
    """The input and state of a window's forward pass. Its tensors are read-only."""

    value: Value
    reset: Tensor | None
    entering: State | None
    random: dict[str, Tensor]  #: random state before the forward pass; empty without dropout


class RecomputingStage(Stage):
    """A stage that can recompute a saved window, from the same input and state, with the same dropout masks.

    Recomputation changes neither the carried state, nor the random state, nor the module's buffers (such as batch
    norm's running statistics). Settings: those of `Stage`.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        super().__init__(module, optimizer, **settings)
        self._instead: dict[str, Tensor] = {}  # replaces the module's own parameters and buffers, by name

    def _remember(self, activation: Value, reset: Tensor | None) -> dict[str, Any]:
        """Return the fields of `SavedWindow` for the window that is about to run."""
        value = map_tensors(lambda tensor: tensor.detach().to(self.device), activation)
        return {"value": value, "reset": reset, "entering": self.state, "random": self._random()}

    def _run_again(self, window: SavedWindow) -> None:
        """Recompute a window: leave its graph in `_graph` for `backward`, and copies of the buffers in `_instead`."""
        carried, random = self.state, self._random()
        self.state = window.entering
        self._draw_from(window.random)
        self._instead = {**self._instead, **{name: buffer.clone() for name, buffer in self.module.named_buffers()}}
        Stage.forward(self, window.value, window.reset)
        self.state = carried
        self._draw_from(random)

    def _call(self, x: Value, state: State) -> tuple[Value, State]:
        return functional_call(self.module, self._instead, (x, state))  # type: ignore[no-any-return]

    def _here(self, value: Value, entering: State | None, **others: Any) -> dict[str, Any]:
        """Move the fields of a loaded window to the stage's device."""
        carried = None if entering is None else tuple(s.to(self.device) for s in entering)
        return {"value": self._on_device(value), "entering": carried, **others}

    def _random(self) -> dict[str, Tensor]:
        return self.randomness.states if self.randomness else {}

    def _draw_from(self, states: dict[str, Tensor]) -> None:
        if self.randomness:
            self.randomness.states = states
