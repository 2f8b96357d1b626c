"""Lambda-mixed targets over the last M windows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dni.interfaces.base import Interface
from dni.interfaces.synthetic import DecoupledInterface
from dni.recurrent import pack, unpack
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow, StateTarget
from dni.time_targets.functional import Passage, mixed_targets
from dni.types import State


class Horizon(Bootstrap):
    """Remembers M windows; then runs them again, as one chain, for M targets (`functional.mixed_targets`).

    The chain starts from the state that entered its first window, and is run with the parameters and the predictor of
    the moment. The last stage's loss is that of the new output; other stages get the gradient of their output that they
    used at its step. A target is learned for the state that was sent at its step, which may be M - 1 updates old.
    Costs M windows of inputs and, every M windows, one forward and one backward pass more over each of them.

    Args:
        stage: whose windows these are; its parameters' gradients are left alone.
        depth: what gave the gradients of its output.
        time: what gave the gradients of its state.
        windows: M.
        mix: lambda, from 0 (bootstrap in every cut) to 1 (only in the newest).
    """

    def __init__(
        self, stage: Stage, depth: Interface, time: DecoupledInterface, *, windows: int, mix: float = 0.0
    ) -> None:
        self.stage, self.depth, self.time = stage, depth, time
        self.size, self.mix = windows, mix
        self._entering: Tensor | None = None  # (B, F); None: a fresh state
        self._windows: list[PastWindow] = []

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """Nothing for M - 1 windows, then the targets of the states that entered them, oldest first."""
        self._windows.append(window)
        if len(self._windows) < self.size:
            return []
        found = mixed_targets(self._run_again(), self.mix)
        steps = [passed.step - 1 for passed in self._windows]
        self._entering, self._windows = window.state, []
        return [StateTarget(step, target) for step, target in zip(steps, found, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"entering": self._entering, "windows": [vars(window) for window in self._windows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        entering, device = state["entering"], self.stage.device
        self._entering = None if entering is None else entering.to(device)
        self._windows = [PastWindow(**window).to(device) for window in state["windows"]]

    def _run_again(self) -> list[Passage]:
        state = self.stage.module.initial_state(len(self._windows[0].value))
        if self._entering is not None:
            state = unpack(self._entering, state)
        chain = []
        for window in self._windows:
            chain.append(self._passage(window, tuple(s.detach().contiguous().requires_grad_() for s in state)))
            state = chain[-1].leaving
        return chain

    def _passage(self, window: PastWindow, entering: State) -> Passage:
        output, leaving = self.stage.again(window.value, entering, window.reset)
        back = self.depth.again(output.detach(), window.labels, window.output_gradient)
        synthetic = self.time.predict(pack(leaving), window.context, window.ends)
        return Passage(entering, output, leaving, None if back is None else back.to(self.stage.device), synthetic)
