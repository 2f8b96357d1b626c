"""The stage of lambda-returns in depth: it sends a target back when its own target has arrived."""

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
    """A window that was learned from, and the gradients that were used."""

    output_gradient: Tensor | None = None
    state_gradient: Tensor | None = None


class LambdaReturnStage(RecomputingStage):
    """Learns from a window at once, with a predicted gradient g, and replies when the target G of its output arrives:

        G_in(s) = J(s)^T [(1 - m) g(s) + m G(s)] + S(s)^T h(s),    J = d output / d input,    S = d state / d input

    h is the gradient of the leaving state that was used at step s; J and S are of the current parameters. These are the
    lambda-returns of BP(lambda) (Pemberton and Costa 2024, arXiv 2401.07044) along the depth of a network, where
    G(s) is the reply of the next stage and the last stage's reply is exact: m = 0 bootstraps in every cut
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
        self._arrived: dict[int, Tensor] = {}  # targets of kept windows

    def forward(self, activation: Tensor, reset: Tensor | None = None, step: int = 0) -> tuple[Tensor, Tensor | None]:
        """As `Stage.forward`; keep the inputs of the window under its step."""
        self._windows[step] = UsedWindow(**self._remember(activation, reset))
        while len(self._windows) > self.memory:
            given_up = min(self._windows)
            del self._windows[given_up]
            self._arrived.pop(given_up, None)
        return super().forward(activation, reset, step)

    def backward(self, output: Tensor | None, state: Tensor | None = None, step: int = 0) -> Gradients:
        """As `Stage.backward`; keep the gradients with the window."""
        if step not in self._windows:
            raise UsageError(f"no window of step {step} was run: give forward and backward the same step")
        self._windows[step].output_gradient, self._windows[step].state_gradient = output, state
        return super().backward(output, state, step)

    def on_target(self, step: int, target: Tensor) -> None:
        """Keep the target of the output of a step. Ignore it if the step has its reply or was given up."""
        if step in self._windows:
            self._arrived[step] = target

    def ready_replies(self) -> list[Reply]:
        """Return the replies to send now: of the oldest windows whose targets have arrived, at most two."""
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
        self.first = False  # the gradient of the input is needed here
        self._run_again(window)
        self.first = True
        gradient = self._to_input(torch.lerp(used, target, self.mix), window.state_gradient)
        self._instead = {}
        return gradient

    def _to_input(self, output: Tensor, state: Tensor | None) -> Tensor:
        """Go back through the newest graph to its input, without a change to parameter gradients."""
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
