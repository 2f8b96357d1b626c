"""The receiving end of an edge: takes frames in order from the previous stage and sends replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dni.errors import OutOfOrder, WireError
from dni.named_tensors import Value
from workers.comm.contents import Contents
from workers.comm.edge import LINK_FAILED, Loss, WaitTime, bytes_of, error_context
from workers.comm.frame import Frame, Kind
from workers.comm.roles import GRADIENT, frame_tensors
from workers.comm.transports.base import ChannelEnd

_FORWARD = (Kind.STEP, Kind.EVALUATE, Kind.PROBE, Kind.CHECKPOINT, Kind.END)


class Upstream:
    """The edge from stage k-1 to stage k, held by stage k.

    `contents` checks the tensors of received frames; None: no check.
    """

    def __init__(
        self,
        end: ChannelEnd,
        *,
        stage: int,
        clock: WaitTime,
        timeout_s: float | None,
        contents: Contents | None = None,
    ) -> None:
        self._end, self._clock, self._timeout_s = end, clock, timeout_s
        self._stage, self._contents = stage, contents
        self._received = 0
        self._finished = 0
        self._sent = 0
        self.sent_bytes = 0  #: of all tensors sent

    def pending(self) -> int:
        """Return the number of frames received and not yet taken."""
        return self._end.pending()

    def state_dict(self) -> dict[str, Any]:
        """Return an empty state: an edge is empty at a checkpoint barrier."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing; the inverse of `state_dict`."""

    def figures(self) -> dict[str, Any]:
        """Return no figures: an edge measures nothing about the data."""
        return {}

    def receive(self) -> Frame:
        """Wait for the next frame, at most `timeout_s` seconds.

        Raises WorkerLost, PeerTimeout, the WireError of a malformed frame, OutOfOrder or WrongTensor. After the last
        three, the frame counts as received, and the next call returns the frame after it.
        """
        with self._clock.waiting(self._stage - 1):
            frame = self._next(lambda: self._end.receive(self._timeout_s))
        assert frame is not None
        return frame

    def poll(self) -> Frame | None:
        """Return the next frame, or None if none has arrived. Raises as `receive`."""
        return self._next(self._end.poll)

    def finish(
        self,
        frame: Frame,
        gradient: Value | None = None,
        losses: Sequence[Loss] = (),
        *,
        late: int = 0,
        more: bool = False,
        piggybacked: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Send the reply to `frame`: it and all frames before it are finished.

        Args:
            frame: the finished frame.
            gradient: gradient of its activation, if any.
            losses: loss reports for the first stage.
            late: the gradient belongs to the activation of `late` steps before.
            more: another reply follows, and only that one finishes the frame.
            piggybacked: further tensors for the previous stage.
        """
        kind = Kind.DONE if gradient is None else Kind.GRADIENT
        if not more:
            self._finished = max(self._finished, frame.sequence)
        tensors = {**({} if gradient is None else frame_tensors(GRADIENT, gradient)), **piggybacked}
        if late:
            tensors["late"] = torch.tensor(late)
        if losses:
            tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        reply = Frame(kind, frame.step, self._sent + 1, self._finished, self._stage, tensors)
        with error_context(f"stage {self._stage}, sending {kind.name} of step {frame.step} to stage {self._stage - 1}"):
            self._end.send(reply)
        self._sent += 1
        self.sent_bytes += bytes_of(tensors)

    def _next(self, get: Callable[[], Frame | None]) -> Frame | None:
        expected, source = self._received + 1, f"stage {self._stage - 1}"
        try:
            with error_context(f"stage {self._stage}, waiting for frame {expected} from {source}"):
                frame = get()
        except LINK_FAILED:
            raise
        except WireError:
            self._received = expected
            raise
        if frame is None:
            return None
        self._received = max(self._received, frame.sequence)
        where = f"stage {self._stage}: {frame.kind.name} of step {frame.step} from {source}"
        if frame.sequence != expected:
            cause = "repeated" if frame.sequence < expected else "lost or reordered"
            raise OutOfOrder(f"{where} has sequence {frame.sequence}, expected {expected}: frames were {cause}")
        if frame.kind not in _FORWARD:
            raise OutOfOrder(f"{where} does not belong to the downstream direction; are the two stages swapped?")
        if self._contents is not None:
            self._contents.check(frame, where)
        return frame
