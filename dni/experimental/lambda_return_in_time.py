"""Lambda-returns in time: targets that start from several windows ahead (letters: `dni.time_targets.base`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.interfaces.base import Interface
from dni.interfaces.synthetic import DecoupledInterface
from dni.methods.cut import TimeCutContext
from dni.methods.synthetic_in_time import SyntheticInTime
from dni.plugin import RunContext
from dni.ranges import one_or_more, zero_or_more
from dni.recurrent import pack, unpack
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow, StateTarget
from dni.types import State


@dataclass
class LambdaReturnInTime(SyntheticInTime):
    """Synthetic gradients in time whose targets are lambda-returns over several windows (`LambdaReturnTargets`)."""

    horizon: int = one_or_more(4)  # [windows] M, recomputed together for M targets of the time cut
    lambda_: float = zero_or_more(0.9)  # [share] of the later targets of a horizon; the rest is the prediction.
    # `lambda` is a keyword of Python

    name: ClassVar[str] = "lambda_return"
    several_windows: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = False

    def waiting(self, cut: TimeCutContext) -> int:
        return self.horizon

    def targets(self, cut: TimeCutContext, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
        assert isinstance(time, DecoupledInterface)
        return LambdaReturnTargets(stage, depth, time, windows=self.horizon, mix=self.lambda_)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.lambda_ > 1:
            raise ConfigError(
                f"time.lambda_={self.lambda_} must be at most 1: from 0, where every target starts from the next "
                "prediction, to 1, where it starts from the last one of a horizon"
            )
        if self.horizon == 1:
            raise ConfigError("time.horizon=1 leaves time=lambda_return nothing to mix: use time=synthetic")
        if run.predictor.time.awaited_labels:
            raise ConfigError(
                f"time=lambda_return makes the targets of several windows together, and predictor="
                f"{run.predictor.time.name} waits for labels: use predictor=critic or predictor=mlp (or time=synthetic)"
            )


class LambdaReturnTargets(Bootstrap):
    """Keeps M windows, then recomputes them as one chain for M targets (`mixed_targets`).

    The chain starts from the state that entered its first window and uses the current parameters and predictor. The
    last stage takes the loss of the new output; other stages take the output gradient that they used at its step. A
    target is learned for the state of its step, which may be M - 1 updates old. The cost is memory for the inputs of M
    windows and, every M windows, one more forward and backward pass over each of them.

    Args:
        stage: runs the windows; its parameters' gradients are not changed.
        depth: the interface at its output.
        time: the interface at the end of its windows.
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
        """Return nothing for M - 1 windows, then the targets of the states that entered them, oldest first."""
        self._windows.append(window)
        if len(self._windows) < self.size:
            return []
        found = mixed_targets(self._recompute(), self.mix)
        steps = [window.step - 1 for window in self._windows]
        self._entering, self._windows = window.state, []
        return [StateTarget(step, target) for step, target in zip(steps, found, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"entering": self._entering, "windows": [vars(window) for window in self._windows]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        entering, device = state["entering"], self.stage.device
        self._entering = None if entering is None else entering.to(device)
        self._windows = [PastWindow(**window).to(device) for window in state["windows"]]

    def _recompute(self) -> list[WindowGraph]:
        state = self.stage.module.initial_state(len(self._windows[0].value))
        if self._entering is not None:
            state = unpack(self._entering, state)
        chain = []
        for window in self._windows:
            chain.append(self._graph_of(window, tuple(s.detach().contiguous().requires_grad_() for s in state)))
            state = chain[-1].leaving
        return chain

    def _graph_of(self, window: PastWindow, entering: State) -> WindowGraph:
        output, leaving = self.stage.recompute(window.value, entering, window.reset)
        back = self.depth.recompute(output.detach(), window.labels, window.output_gradient)
        synthetic = self.time.predict(pack(leaving), window.context, window.done)
        return WindowGraph(entering, output, leaving, None if back is None else back.to(self.stage.device), synthetic)


class WindowGraph(NamedTuple):
    """The graph of one window, and the gradients that enter at its end."""

    entering: State  #: leaves that require a gradient
    output: Tensor
    leaving: State
    output_gradient: Tensor | None  #: dL_t/d output; None: zero
    synthetic: Tensor  #: g_t, (B, F)


def mixed_targets(windows: Sequence[WindowGraph], mix: float) -> list[Tensor]:
    """Return the target gradient (B, F) of the state that enters each of M windows in a row, by one backward pass.

        G_{t-1} = dL_t/ds_{t-1} + J_t^T [(1 - mix) g_t + mix G_t],    J_t = ds_t/ds_{t-1},    G = g at the last cut

    These are the lambda-returns of TD(lambda) for gradients (Pemberton and Costa 2024, arXiv 2401.07044; there learned
    with eligibility traces, here backward over M windows). mix = 0 bootstraps in every cut (Jaderberg et al. 2017,
    section 2.1); mix = 1 is backpropagation through the M windows, bootstrapped only at their end.
    """
    targets: list[Tensor] = []
    later = windows[-1].synthetic
    for window in reversed(windows):
        later = _backward(window, torch.lerp(window.synthetic, later, mix))
        targets.insert(0, later)
    return targets


def _backward(window: WindowGraph, state_gradient: Tensor) -> Tensor:
    """Return dL_t/ds_{t-1} + J_t^T times a gradient of s_t, without a change to parameter gradients."""
    ends, gradients = list(window.leaving), list(unpack(state_gradient, window.leaving))
    if window.output_gradient is not None:
        ends.append(window.output)
        gradients.append(window.output_gradient)
    entering = list(window.entering)
    return pack(torch.autograd.grad(ends, entering, gradients, allow_unused=True, materialize_grads=True))
