"""Targets in depth that are mixed with the true gradient, and sent back once it has come all the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.interfaces.delayed import AT_ONCE
from dni.misuse import refuse_below
from dni.recurrent import unpack
from dni.stages.graph import Gradients, Reply
from dni.stages.recompute import RecomputingStage, SavedWindow


@dataclass
class UsedWindow(SavedWindow):
    """A window that was learned from, and the gradients it was learned with."""

    output_gradient: Tensor | None = None
    state_gradient: Tensor | None = None


class LambdaReturnStage(RecomputingStage):
    """Learns from a window at once, with a predicted gradient g, and answers when the target G of its output is here:

        G_in(s) = J(s)^T [(1 - m) g(s) + m G(s)] + S(s)^T h(s),    J = d output / d input,    S = d state / d input

    h is the gradient of the leaving state that was used at step s, J and S are those of today's parameters. These are
    the lambda-returns of BP(lambda) (Pemberton and Costa 2024, arXiv 2401.07044) along the depth of a network, where
    G(s) is what the next stage answered in its turn and the last stage's answer is exact: m = 0 bootstraps in every cut
    (Jaderberg et al. 2017); with m = 1 the true gradient comes all the way back, exact if parameters stand still.

    `backward` finds no gradient of the input. A window costs its input while it waits, then one more forward pass and
    a backward pass to its input alone.

    Args:
        mix: m, above 0.
        memory: how many windows wait; the oldest is given up for a newer one.
        settings: those of `Stage`, but for `first`.
    """

    replies_later = True

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, *, mix: float, memory: int, **settings: Any
    ) -> None:
        refuse_below(1, memory=memory)
        super().__init__(module, optimizer, **{**settings, "first": True})
        self.mix, self.memory = mix, memory
        self._windows: dict[int, UsedWindow] = {}
        self._arrived: dict[int, Tensor] = {}  # targets of windows that wait

    def forward(self, activation: Tensor, reset: Tensor | None = None, step: int = 0) -> tuple[Tensor, Tensor | None]:
        """As `Stage.forward`; what the window was run on is kept under its step."""
        self._windows[step] = UsedWindow(**self._remember(activation, reset))
        while len(self._windows) > self.memory:
            given_up = min(self._windows)
            del self._windows[given_up]
            self._arrived.pop(given_up, None)
        return super().forward(activation, reset, step)

    def backward(self, output: Tensor | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """As `Stage.backward`; the gradients are kept with the window."""
        if step not in self._windows:
            raise UsageError(f"no window of step {step} was run: give forward and backward the same step")
        self._windows[step].output_gradient, self._windows[step].state_gradient = output, state
        return super().backward(output, state, step)

    def on_target(self, step: int, target: Tensor) -> None:
        """The target of the output of a step is here; of a step that is answered or given up it is ignored."""
        if step in self._windows:
            self._arrived[step] = target

    def ready_replies(self) -> list[Reply]:
        """What to answer now, between two windows: of the oldest that have been told, two at most."""
        return [Reply(step, self._reply(step)) for step in sorted(self._arrived)[:AT_ONCE]]

    def state_dict(self) -> dict[str, Any]:
        windows = {step: dict(vars(window)) for step, window in self._windows.items()}
        return {**super().state_dict(), "windows": windows, "arrived": dict(self._arrived)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._windows = {step: UsedWindow(**self._here(**window)) for step, window in state["windows"].items()}
        self._arrived = dict(state["arrived"])

    def _reply(self, step: int) -> Tensor:
        window, target = self._windows.pop(step), self._arrived.pop(step).to(self.device)
        used = torch.zeros_like(target) if window.output_gradient is None else window.output_gradient.to(self.device)
        self.first = False  # this time the gradient of the input is wanted
        self._run_again(window)
        self.first = True
        gradient = self._to_input(torch.lerp(used, target, self.mix), window.state_gradient)
        self._instead = {}
        return gradient

    def _to_input(self, output: Tensor, state: Tensor | None) -> Tensor:
        """Back through the graph that was made last; parameter gradients are left alone."""
        graph, self._graph = self._graph, None
        assert graph is not None
        assert graph.input is not None
        ends, gradients = [graph.output], [output]
        if state is not None:
            ends += graph.leaving
            gradients += unpack(state.to(self.device), graph.leaving)
        with self._recomputing():
            (gradient,) = torch.autograd.grad(ends, graph.input, gradients)
        return gradient
