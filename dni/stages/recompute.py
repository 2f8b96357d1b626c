"""What it takes to run a window again later, as it was run and without a trace."""

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
    """What a window was run on. Nobody may write to its tensors any more."""

    value: Value
    reset: Tensor | None
    entering: State | None
    random: dict[str, Tensor]  #: state before the forward pass, of a stage that draws


class RecomputingStage(Stage):
    """A stage that can run a remembered window again: from the same input and state, with the same random draws.

    The state that is carried on, the random state and the module's buffers (batch norm's running statistics) are
    afterwards what they were. Settings: those of `Stage`.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
        super().__init__(module, optimizer, **settings)
        self._instead: dict[str, Tensor] = {}  # runs in the place of the module's own parameters and buffers, by name

    def _remember(self, activation: Value, reset: Tensor | None) -> dict[str, Any]:
        """The fields of `SavedWindow`, of the window that is about to be run."""
        value = map_tensors(lambda tensor: tensor.detach().to(self.device), activation)
        return {"value": value, "reset": reset, "entering": self.state, "random": self._random()}

    def _run_again(self, window: SavedWindow) -> None:
        """Leaves the window's graph where `Stage.backward` finds it, and copies of the buffers in `_instead`."""
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
        """The fields of a remembered window that was loaded, on the stage's device."""
        carried = None if entering is None else tuple(s.to(self.device) for s in entering)
        return {"value": self._on_device(value), "entering": carried, **others}

    def _random(self) -> dict[str, Tensor]:
        return self.randomness.states if self.randomness else {}

    def _draw_from(self, states: dict[str, Tensor]) -> None:
        if self.randomness:
            self.randomness.states = states
