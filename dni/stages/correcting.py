"""A stage that goes back through a window at once, and again when a correction of its gradient arrives."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dni.misuse import refuse_below
from dni.named_tensors import Value, named
from dni.stages.graph import Gradients, Graph
from dni.stages.weight_stashing import StashingStage


class CorrectingStage(StashingStage):
    """A stage that adds backward passes of earlier windows to the update of the newest one:

        w_{t+1} = w_t - rate * (J_t^T g_t + sum_s J_s^T c_s),    J_s = dv_s/dw (w_s),    s <= t,    with stash
                                                                 J_s = dv_s/dw (w_t),    without

    v_s is the output of step s, g_t the gradient that is used at once, c_s a correction. A backward pass adds to the
    parameter gradients, and a window can be used several times.

    Args:
        memory: windows that are kept, with the newest one; older ones are dropped.
        every: keep only windows whose step is a multiple of this.
        stash: keep the weights and the graphs of the forward passes; False: run a window again for a correction, with
            the current weights.
        settings: those of `Stage`.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        memory: int,
        every: int = 1,
        stash: bool = True,
        **settings: Any,
    ) -> None:
        refuse_below(1, memory=memory, every=every)
        super().__init__(module, optimizer, stash=stash, **settings)
        self.memory, self.every = memory, every
        self._keeps_graph = True  # of the newest window, also without stash

    def forward(self, activation: Value, reset: Tensor | None = None, step: int = 0) -> tuple[Value, Tensor | None]:
        """Run one window as `Stage.forward` does, keep it under its step, and drop windows that are too old."""
        oldest = step - self.memory + 1
        self._windows = {s: kept for s, kept in self._windows.items() if s >= oldest and s % self.every == 0}
        return super().forward(activation, reset, step)

    def backward(self, output: Value | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """Run a backward pass as `Stage.backward` does, through the window of `step`, and keep that window."""
        window = self._window(step)
        self._retains = self.stash and self.memory > 1 and step % self.every == 0
        gradients = self._go_back(window, output, state, step)
        if window.graph is not None and not self._retains:
            window.graph = None
        elif window.graph is not None:
            _forget_gradients(window.graph)
        return gradients


def _forget_gradients(graph: Graph) -> None:
    """Let the next backward pass of a graph begin from zero at its leaves."""
    for leaf in (*({} if graph.input is None else named(graph.input)).values(), *graph.entering):
        leaf.grad = None
