"""A stage's module on one microbatch at a time: some streams of the batch, each with the state that it carries."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dni.recurrent import reset_streams
from dni.stages.base import Stage
from dni.types import State


class Microbatches(nn.Module):
    """Runs microbatch `microbatch` of a window; the state that enters is cut off from the windows before.

    `begin` and `end` enclose the M forward passes of a step. Between steps the stage holds the state of all streams, so
    that its checkpoint is that of any other method.
    """

    def __init__(self, stage: Stage, microbatches: int) -> None:
        super().__init__()
        self.stage, self.microbatches, self.microbatch = stage, microbatches, 0
        self.chain = stage.module
        self._entering: list[State] = []
        self._leaving: list[State] = []

    def begin(self, reset: Tensor) -> None:
        """Deal the carried state out. `reset` (B,) bool marks streams whose sequence starts here."""
        batch = len(reset)
        state = self.stage.state or self.chain.initial_state(batch)
        whole = reset_streams(state, reset.to(self.stage.device))
        each = batch // self.microbatches
        slices = [slice(n * each, (n + 1) * each) for n in range(self.microbatches)]
        self._entering = [tuple(s[..., some, :].contiguous() for s in whole) for some in slices]
        self._leaving = [() for _ in slices]

    def forward(self, x: Tensor) -> Tensor:
        """(B/M, ...) -> the output of these streams, of no other tensor's memory."""
        stage, n = self.stage, self.microbatch
        with stage.randomness.active() if stage.randomness else nullcontext():
            # a first layer may work in place
            output, after = self.chain(x.clone() if x.is_floating_point() else x, self._entering[n])
        self._leaving[n] = tuple(s.detach() for s in after)
        # torch detaches it in place, which a view does not allow
        return output.clone() if output._is_view() else output  # type: ignore[no-any-return]

    def end(self) -> None:
        """Take the state of all streams together again."""
        self.stage.state = tuple(torch.cat(parts, dim=-2) for parts in zip(*self._leaving, strict=True))
        self._entering, self._leaving = [], []
