"""One part of the model in torch's pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from workers.runtime.pipeline.values import Specs, as_bytes

#: Lowest tag of a microbatch; lower tags are for other messages.
FIRST_TAG = 16

FORWARD, BACKWARD = 0, 1


class MicrobatchStage(PipelineStage):
    """A `PipelineStage` that posts the receives of all microbatches at the start of a step.

    gloo sends a tensor only after its receive is posted. torch posts it when the tensor is needed, so that on a slow
    link every microbatch costs a round trip. This class posts all receives of a step at its start, each with its own
    tag, and waits in the pass that needs the tensor. NCCL has no tags and uses torch's own order.

    Args:
        microbatched: the module, which knows what comes in and goes out. Floating-point tensors have gradients; integer
            and bool ones travel as bytes and have none.
        parts: number of parts.
        computing: adds up the time of the passes, during which a stage waits for no other one.
        forward_ms, backward_ms: minimum time of the passes of one microbatch, in milliseconds.
    """

    def __init__(
        self,
        microbatched: Microbatches,
        parts: int,
        *,
        computing: WaitTime,
        forward_ms: float,
        backward_ms: float,
    ) -> None:
        device, index = microbatched.stage.device, microbatched.part
        inputs, outputs = (_examples(microbatched.takes, learns=index > 0), _examples(microbatched.gives))
        super().__init__(microbatched, index, parts, device, inputs, outputs)
        self.microbatched, self.computing, self.posts_early = microbatched, computing, device.type == "cpu"
        self._forward = lasting(super().forward_one_chunk, forward_ms)
        self._backward = lasting(super().backward_one_chunk, backward_ms)
        self._half = lasting(super().backward_one_chunk, backward_ms / 2)
        self._weights = lasting(super().backward_weight_one_chunk, backward_ms / 2)
        self.sent_bytes = 0  #: of the tensors sent to other parts
        self._receives: dict[tuple[int, int], list[dist.Work]] | None = None

    def clear_runtime_states(self) -> None:
        """Begin a step: torch calls this first."""
        super().clear_runtime_states()
        self._receives = None
        if self.grad_recv_info:  # torch makes it in the first step
            self._post_receives()

    def get_fwd_recv_ops(self, fwd_chunk_id: int) -> list[dist.P2POp]:
        ops = [] if self.posts_early else super().get_fwd_recv_ops(fwd_chunk_id)
        return self._tagged(ops, FORWARD, self.stage_index, fwd_chunk_id)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> list[dist.P2POp]:
        ops = [] if self.posts_early else super().get_bwd_recv_ops(bwd_chunk_id)
        return self._tagged(ops, BACKWARD, self.stage_index, bwd_chunk_id)

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
        call = partial(self._forward, fwd_chunk_id, args, kwargs, save_forward_output)
        return self._pass("forward", fwd_chunk_id, call)

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Tensor | None = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        self._await(BACKWARD, bwd_chunk_id)
        backward, name = (self._backward, "backward") if full_backward else (self._half, "backward input")
        self._pass(name, bwd_chunk_id, partial(backward, bwd_chunk_id, loss, full_backward, last_backward))

    def backward_weight_one_chunk(self, bwd_chunk_id: int, last_backward: bool = False) -> None:
        self._pass("backward weights", bwd_chunk_id, partial(self._weights, bwd_chunk_id, last_backward))

    def _pass(self, name: str, microbatch: int, call: Callable[[], Any]) -> Any:
        details = {"part": self.microbatched.part, "microbatch": microbatch}
        with self.computing.waiting(None, name, details), _own_errors():
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
        """Tag operations by tensor, receiver, microbatch and direction, and make tensors as gloo and NCCL need them."""
        place = receiver * self.microbatched.microbatches + microbatch
        places = self.num_stages * self.microbatched.microbatches
        for number, op in enumerate(ops):
            self.sent_bytes += op.tensor.nbytes if op.op is dist.isend else 0
            op.tag = FIRST_TAG + 2 * (number * places + place) + direction
            op.tensor = as_bytes(op.tensor.contiguous() if op.op is dist.isend else op.tensor)
        return ops


def _examples(specs: Specs, *, learns: bool = True) -> tuple[Tensor, ...]:
    """Return tensors without content that say which of a microbatch's tensors have gradients."""
    return tuple(torch.empty_like(each, requires_grad=learns and each.is_floating_point()) for each in specs.values())


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise an error of a layer itself, instead of the many lines that torch makes of it."""
    try:
        yield
    except RuntimeError as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
