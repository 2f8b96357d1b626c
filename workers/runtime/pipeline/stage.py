"""One part of the model in torch's pipeline."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage

from workers.comm.edge import WaitTime
from workers.runtime.emulation import lasting
from workers.runtime.pipeline.microbatches import Microbatches
from workers.runtime.pipeline.process_group import lost_neighbours

#: Tags below it are for messages that are not of the pipeline.
FIRST_TAG = 16

FORWARD, BACKWARD = 0, 1


class Computing(WaitTime):
    """Adds up the seconds of passes, in which a stage waits for nobody."""


class MicrobatchStage(PipelineStage):
    """A `PipelineStage` that is ready for all its microbatches before they are sent.

    gloo sends a tensor only once its receiver has asked for it, which torch does when it needs it: on a slow link every
    microbatch would cost a round trip. Here all of a step's microbatches are asked for when the step begins, each by a
    tag of its own, and waited for in the pass that needs them. NCCL, which knows no tags, is left to torch.

    Args:
        microbatched: the module.
        index, parts: which part it is, of how many.
        shapes: (B/M, ...) of what comes in and what goes out.
        computing: adds up the time of the passes.
        forward_ms, backward_ms: how long those of one microbatch last at least.
    """

    def __init__(
        self,
        microbatched: Microbatches,
        index: int,
        parts: int,
        shapes: tuple[torch.Size, torch.Size],
        *,
        computing: Computing,
        forward_ms: float,
        backward_ms: float,
    ) -> None:
        device, first = microbatched.stage.device, index == 0
        inputs, outputs = (torch.empty(shape, device="meta") for shape in shapes)
        super().__init__(
            microbatched, index, parts, device, (inputs.requires_grad_(not first),), (outputs.requires_grad_(),)
        )
        self.microbatched, self.computing, self.asks_ahead = microbatched, computing, device.type == "cpu"
        self._forward = lasting(super().forward_one_chunk, forward_ms)
        self._backward = lasting(super().backward_one_chunk, backward_ms)
        self._half = lasting(super().backward_one_chunk, backward_ms / 2)
        self._weights = lasting(super().backward_weight_one_chunk, backward_ms / 2)
        self._coming: dict[tuple[int, int], list[dist.Work]] | None = None

    def clear_runtime_states(self) -> None:
        """A step begins."""
        super().clear_runtime_states()
        self._coming = None
        if self.grad_recv_info:  # which torch makes in the first step
            self._ask()

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return [] if self.asks_ahead else super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return [] if self.asks_ahead else super().get_bwd_recv_ops(bwd_chunk_id)

    def get_fwd_send_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return self._tagged(super().get_fwd_send_ops(fwd_chunk_id), FORWARD, self.stage_index + 1, fwd_chunk_id)

    def get_bwd_send_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return self._tagged(super().get_bwd_send_ops(bwd_chunk_id), BACKWARD, self.stage_index - 1, bwd_chunk_id)

    def forward_one_chunk(
        self,
        fwd_chunk_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        save_forward_output: bool = True,
    ) -> Any:
        self.microbatched.microbatch = fwd_chunk_id
        self._await(FORWARD, fwd_chunk_id)
        return self._pass(partial(self._forward, fwd_chunk_id, args, kwargs, save_forward_output))

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Tensor | None = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        self._await(BACKWARD, bwd_chunk_id)
        backward = self._backward if full_backward else self._half
        self._pass(partial(backward, bwd_chunk_id, loss, full_backward, last_backward))

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        self._pass(partial(self._weights, bwd_chunk_id, last_backward))

    def _pass(self, call: Callable[[], Any]) -> Any:
        with self.computing.waiting():
            return call()

    def _ask(self) -> None:
        """For everything that will come in this step."""
        self._coming = {}
        for n in range(self.microbatched.microbatches if self.asks_ahead else 0):
            for way, ops in ((FORWARD, super().get_fwd_recv_ops(n)), (BACKWARD, super().get_bwd_recv_ops(n))):
                tagged = self._tagged(ops, way, self.stage_index, n)
                self._coming[way, n] = [
                    op.op(op.tensor, group=op.group, tag=op.tag, group_src=op.group_peer) for op in tagged
                ]

    def _await(self, way: int, microbatch: int) -> None:
        if self._coming is None:
            self._ask()
        assert self._coming is not None
        sender = (self.stage_index + (-1 if way is FORWARD else 1)) % self.group_size
        with lost_neighbours(f"stage {sender}"):
            for work in self._coming.pop((way, microbatch), []):
                work.wait()

    def _tagged(self, ops: list[dist.P2POp], way: int, receiver: int, microbatch: int) -> list[dist.P2POp]:
        """Known by their receiver and their microbatch; gloo sends contiguous tensors alone."""
        for op in ops:
            op.tag = FIRST_TAG + 2 * (receiver * self.microbatched.microbatches + microbatch) + way
            if op.op is dist.isend:
                op.tensor = op.tensor.contiguous()
        return ops
