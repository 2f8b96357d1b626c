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

#: Lowest tag of a microbatch; lower tags are for other messages.
FIRST_TAG = 16

FORWARD, BACKWARD = 0, 1


class Computing(WaitTime):
    """Adds up the seconds of passes, during which a stage waits for no other stage."""


class MicrobatchStage(PipelineStage):
    """A `PipelineStage` that posts the receives of all microbatches at the start of a step.

    gloo sends a tensor only after its receive is posted. torch posts it when the tensor is needed, so that on a slow
    link every microbatch costs a round trip. This class posts all receives of a step at its start, each with its own
    tag, and waits in the pass that needs the tensor. NCCL has no tags and uses torch's own order.

    Args:
        microbatched: the module.
        index, parts: index of this part, and number of parts.
        shapes: (B/M, ...) of the input and of the output.
        computing: adds up the time of the passes.
        forward_ms, backward_ms: minimum time of the passes of one microbatch, in milliseconds.
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
        self.microbatched, self.computing, self.posts_early = microbatched, computing, device.type == "cpu"
        self._forward = lasting(super().forward_one_chunk, forward_ms)
        self._backward = lasting(super().backward_one_chunk, backward_ms)
        self._half = lasting(super().backward_one_chunk, backward_ms / 2)
        self._weights = lasting(super().backward_weight_one_chunk, backward_ms / 2)
        self._receives: dict[tuple[int, int], list[dist.Work]] | None = None

    def clear_runtime_states(self) -> None:
        """Begin a step: torch calls this first."""
        super().clear_runtime_states()
        self._receives = None
        if self.grad_recv_info:  # torch makes it in the first step
            self._post_receives()

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        return [] if self.posts_early else super().get_fwd_recv_ops(fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        return [] if self.posts_early else super().get_bwd_recv_ops(bwd_chunk_id)

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

    def _post_receives(self) -> None:
        """Post the receives of all activations and gradients of this step."""
        self._receives = {}
        for n in range(self.microbatched.microbatches if self.posts_early else 0):
            for direction, ops in ((FORWARD, super().get_fwd_recv_ops(n)), (BACKWARD, super().get_bwd_recv_ops(n))):
                tagged = self._tagged(ops, direction, self.stage_index, n)
                self._receives[direction, n] = [
                    op.op(op.tensor, group=op.group, tag=op.tag, group_src=op.group_peer) for op in tagged
                ]

    def _await(self, direction: int, microbatch: int) -> None:
        if self._receives is None:
            self._post_receives()
        assert self._receives is not None
        sender = (self.stage_index + (-1 if direction is FORWARD else 1)) % self.group_size
        with lost_neighbours(f"stage {sender}"):
            for work in self._receives.pop((direction, microbatch), []):
                work.wait()

    def _tagged(self, ops: list[dist.P2POp], direction: int, receiver: int, microbatch: int) -> list[dist.P2POp]:
        """Tag operations by receiver, microbatch and direction, and make sent tensors contiguous, as gloo needs."""
        for op in ops:
            op.tag = FIRST_TAG + 2 * (receiver * self.microbatched.microbatches + microbatch) + direction
            if op.op is dist.isend:
                op.tensor = op.tensor.contiguous()
        return ops
