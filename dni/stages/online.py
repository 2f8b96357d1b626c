"""A stage that learns from the past before a window, through traces that it carries along."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.named_tensors import Value
from dni.recurrent import Recurrent
from dni.stages.base import Stage
from dni.stages.graph import Graph
from dni.stages.traces.traced_layer import TracedLayer
from dni.types import State


class OnlineStage(Stage):
    """A stage of element-wise recurrent layers whose weights get credit for what they did before the window.

    Real-time recurrent learning (Williams and Zipser 1989) at its price for a diagonal recurrence (Zucchet et al. 2023,
    arXiv 2305.15947): memory B x H x D for each matrix, and some passes over the window for each layer. While the
    weights stay as they are, the gradients of the last recurrent layer equal those of backpropagation through the whole
    sequence. For layers below another one this takes the gradient of the leaving state, which `backward` is given; with
    None, it is zero.

    Args: those of `Stage`, but no `chunk`, and
        trace_decay: factor on all traces after an optimizer step, from 0 to 1, as they belong to the weights before it.

    Raises UsageError for a recurrent layer without traces.
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, trace_decay: float = 1.0, **settings: Any
    ) -> None:
        super().__init__(module, optimizer, **settings)
        self.trace_decay = trace_decay
        if self.chunk is not None:
            raise UsageError("an OnlineStage keeps the activations of a window: use chunk=None")
        self.layers = traced_layers(self.module)
        self._entering: State | None = None  # of the window that the traces are not moved over yet
        self._reset: Tensor | None = None  # of the newest window

    def forward(self, activation: Value, reset: Tensor | None = None, step: int = 0) -> tuple[Value, Tensor | None]:
        self._carry_over()
        self._reset = None if reset is None else reset.to(self.device)
        return super().forward(activation, reset, step)

    def update(self, divisor: float = 1.0, *, move: bool = True, factor: float = 1.0) -> None:
        if self._graph is None:
            self._carry_over()  # here, as the previous stage waits for what `backward` returns
        super().update(divisor, move=move, factor=factor)

    def finish_step(self, norm: float) -> None:
        before = self.moved
        super().finish_step(norm)
        if self.moved > before and self.trace_decay != 1:
            for layer in self.layers:
                layer.fade(self.trace_decay)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "traces": self.traces}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        saved = state.get("traces", {})
        for layer in self.layers:
            layer.load(saved, self.device)

    @property
    def traces(self) -> dict[str, Tensor]:
        """The traces of all layers after the newest window, by the names of their weights; empty before the first."""
        self._carry_over()
        return {name: trace for layer in self.layers for name, trace in layer.traces.items()}

    def _call(self, x: Value, state: State) -> tuple[Value, State]:
        with ExitStack() as recordings:
            for layer in self.layers:
                recordings.enter_context(layer.recording(self._reset))
            return super()._call(x, state)

    def _backward(self, graph: Graph, ends: list[Tensor], gradients: list[Tensor], future: State | None) -> None:
        """Go back from the top, layer by layer."""
        for layer, own in reversed(self._parts()):
            after = None if future is None else future[own]
            ends, gradients = layer.backward(ends, gradients, graph.entering[own], after)
        if ends:
            torch.autograd.backward(ends, gradients)
        self._entering = graph.entering

    def _carry_over(self) -> None:
        """Move the traces to the end of the newest window, also if there was no backward pass through it."""
        graph, self._graph = self._graph, None
        entering, self._entering = self._entering if graph is None else graph.entering, None
        if entering is not None:
            for layer, own in self._parts():
                layer.carry(entering[own])

    def _parts(self) -> list[tuple[TracedLayer, slice]]:
        """Return the layers from the bottom up, each with the place of its tensors in the stage's state."""
        found, start = [], 0
        for layer in self.layers:
            end = start + len(layer.layer.initial_state(1))
            found.append((layer, slice(start, end)))
            start = end
        return found


def traced_layers(module: nn.Module) -> list[TracedLayer]:
    """Return the recurrent layers of a chain, from the bottom up. Raises UsageError for one without traces."""
    return [TracedLayer(name, layer) for name, layer in module.named_children() if isinstance(layer, Recurrent)]
