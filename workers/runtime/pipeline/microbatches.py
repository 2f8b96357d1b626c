"""Run a stage's module on one microbatch at a time: a slice of the batch's streams, with their carried state."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dni.recurrent import reset_streams
from dni.stages.base import Stage
from dni.types import State


class Microbatches(nn.Module):
    """Runs microbatch number `microbatch` of a window; no gradient flows into the entering state.

    Call `begin` before and `end` after the M forward passes of a step. Between steps the stage holds the state of all
    streams, so that its checkpoint equals that of any other method.
    """

    def __init__(self, stage: Stage, microbatches: int) -> None:
        super().__init__()
        self.stage, self.microbatches, self.microbatch = stage, microbatches, 0
        self.chain = stage.module
        self._entering: list[State] = []
        self._leaving: list[State] = []

    def begin(self, reset: Tensor) -> None:
        """Split the carried state into microbatches. `reset` (B,) bool marks streams whose sequence starts here."""
        batch = len(reset)
        state = self.stage.state or self.chain.initial_state(batch)
        whole = reset_streams(state, reset.to(self.stage.device))
        size = batch // self.microbatches
        slices = [slice(n * size, (n + 1) * size) for n in range(self.microbatches)]
        self._entering = [tuple(s[..., some, :].contiguous() for s in whole) for some in slices]
        self._leaving = [() for _ in slices]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B/M, ...) to the output of these streams, which shares no memory with other tensors."""
        stage, n = self.stage, self.microbatch
        with stage.randomness.active() if stage.randomness else nullcontext():
            # the first layer may work in place
            output, after = self.chain(x.clone() if x.is_floating_point() else x, self._entering[n])
        self._leaving[n] = tuple(s.detach() for s in after)
        # torch detaches it in place, which a view does not allow
        return output.clone() if output._is_view() else output  # type: ignore[no-any-return]

    def end(self) -> None:
        """Join the states of the microbatches in the stage."""
        self.stage.state = tuple(torch.cat(parts, dim=-2) for parts in zip(*self._leaving, strict=True))
        self._entering, self._leaving = [], []
