"""The edge from a stage to the one before it: frames in order, and what is answered to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from dni.errors import OutOfOrder, WireError
from dni.named_tensors import Value
from workers.comm.contents import Contents
from workers.comm.edge import LINK_FAILED, Loss, WaitTime, error_context
from workers.comm.frame import Frame, Kind
from workers.comm.roles import GRADIENT, frame_tensors
from workers.comm.transports.base import ChannelEnd

_FORWARD = (Kind.STEP, Kind.EVALUATE, Kind.PROBE, Kind.CHECKPOINT, Kind.END)


class Upstream:
    """The edge from stage k-1 to stage k, held by stage k. `contents`: what its frames must hold; None: anything."""

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

    def pending(self) -> int:
        """Frames received and not yet taken."""
        return self._end.pending()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: at a mark an edge is empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""

    def figures(self) -> dict[str, Any]:
        """An edge has nothing to say of the data."""
        return {}

    def receive(self) -> Frame:
        """The next frame, waited for at most `timeout_s`.

        Raises WorkerLost, PeerTimeout, the error of a malformed frame in its place, OutOfOrder, or WrongTensor. After
        the last three that frame counts as received, and what follows can be received.
        """
        with self._clock.waiting(self._stage - 1):
            frame = self._next(lambda: self._end.receive(self._timeout_s))
        assert frame is not None
        return frame

    def poll(self) -> Frame | None:
        """As `receive`, without waiting: None if nothing is here."""
        return self._next(self._end.poll)

    def finish(
        self,
        frame: Frame,
        gradient: Value | None = None,
        losses: Sequence[Loss] = (),
        *,
        late: int = 0,
        more: bool = False,
    ) -> None:
        """Tell stage k-1 that `frame` and all before it are done, with its activation's gradient and news if any.

        `late` says that the gradient is that of the activation so many steps before; `more`, that another answer
        follows, with which the frame will be done.
        """
        kind = Kind.DONE if gradient is None else Kind.GRADIENT
        if not more:
            self._finished = max(self._finished, frame.sequence)
        tensors = {} if gradient is None else frame_tensors(GRADIENT, gradient)
        if late:
            tensors["late"] = torch.tensor(late)
        if losses:
            tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
        answer = Frame(kind, frame.step, self._sent + 1, self._finished, self._stage, tensors)
        with error_context(f"stage {self._stage}, sending {kind.name} of step {frame.step} to stage {self._stage - 1}"):
            self._end.send(answer)
        self._sent += 1

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
            lost = "repeated" if frame.sequence < expected else "lost or reordered"
            raise OutOfOrder(f"{where} has sequence {frame.sequence}, expected was {expected}: frames were {lost}")
        if frame.kind not in _FORWARD:
            raise OutOfOrder(f"{where} does not go downstream; is that stage connected the right way round?")
        if self._contents is not None:
            self._contents.check(frame, where)
        return frame
