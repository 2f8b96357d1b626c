"""Run a stage's module on one microbatch at a time: a slice of the batch's streams, with their carried state."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from dni.named_tensors import UNNAMED, Value, floating, map_tensors
from dni.recurrent import reset_streams
from dni.stages.base import Stage
from dni.types import State
from workers.runtime.pipeline.values import Specs, as_value, in_order


class Microbatches(nn.Module):
    """Runs microbatch number `microbatch` of a window; no gradient flows into the entering state.

    Call `begin` before and `end` after the M forward passes of a step. Between steps the stage holds the state of all
    streams, so that its checkpoint equals that of any other method.

    Args:
        stage: the stage.
        part: index of the stage's part, for messages.
        microbatches: M.
        takes, gives: the tensors of one microbatch that come in and go out, in the order of their arguments.
    """

    def __init__(self, stage: Stage, part: int, microbatches: int, takes: Specs, gives: Specs) -> None:
        super().__init__()
        self.stage, self.part, self.microbatches, self.microbatch = stage, part, microbatches, 0
        self.takes, self.gives = takes, gives
        self.chain = stage.module
        self._entering: list[State] = []
        self._leaving: list[State] = []

    def begin(self, reset: Tensor) -> None:
        """Split the carried state into microbatches. `reset` (B,) bool marks streams whose sequence starts here."""
        state, batch = self.stage.state, len(reset)
        if not state or state[0].shape[-2] != batch:
            state = self.chain.initial_state(batch)
        whole = reset_streams(state, reset.to(self.stage.device))
        size = batch // self.microbatches
        slices = [slice(n * size, (n + 1) * size) for n in range(self.microbatches)]
        self._entering = [tuple(s[..., some, :].contiguous() for s in whole) for some in slices]
        self._leaving = [() for _ in slices]

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map the tensors of these streams to those of the output, which share no memory with others.

        Several come as a tuple. Raises WrongTensor if these are not what `gives` says.
        """
        stage, n = self.stage, self.microbatch
        value = as_value(self.takes, tensors)
        with stage.randomness.active() if stage.randomness else nullcontext():
            # the first layer may work in place
            fresh = map_tensors(lambda each: each.clone() if each.is_floating_point() else each, value)
            output, after = self.chain(fresh, self._entering[n])
        self._leaving[n] = tuple(s.detach() for s in after)
        leaving = in_order(self.gives, output, f"the output of part {self.part}")
        if UNNAMED in self.takes and UNNAMED in self.gives:
            # torch detaches it in place, which a view does not allow
            return leaving[0].clone() if leaving[0]._is_view() else leaving[0]
        copies = _tied(leaving, value)
        return copies[0] if len(copies) == 1 else copies

    def end(self) -> None:
        """Join the states of the microbatches in the stage."""
        self.stage.state = tuple(torch.cat(parts, dim=-2) for parts in zip(*self._leaving, strict=True))
        self._entering, self._leaving = [], []


class _Tied(torch.autograd.Function):
    """Returns copies of the first `count` tensors, which depend on all others, too, with no gradient.

    Torch looks for the parameters of a stage on the ways from its inputs to its outputs when it runs a backward pass in
    two halves, and leaves out a parameter of an output that no input leads to.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.others = len(tensors) - count
        ctx.set_materialize_grads(False)
        return tuple(each.clone(memory_format=torch.contiguous_format) for each in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *gradients, *[None] * ctx.others)


def _tied(output: list[Tensor], entering: Value) -> tuple[Tensor, ...]:
    """Return copies of the output's tensors; those with a gradient depend on all tensors that came in."""
    real = [each for each in output if each.is_floating_point()]
    copies = iter(_Tied.apply(len(real), *real, *floating(entering).values()))  # type: ignore[no-untyped-call]
    return tuple(next(copies) if each.is_floating_point() else each.clone() for each in output)
