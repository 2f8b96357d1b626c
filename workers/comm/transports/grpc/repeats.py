"""Messages that come again over a new call: those that may not have arrived, and those that came damaged."""

from __future__ import annotations

import grpc

from dni.errors import CorruptHeader, CorruptPayload, TruncatedFrame, WireError
from workers.comm.header import read_header

#: Errors of a message that was changed on its way, if not by its sender.
DAMAGED = (CorruptHeader, CorruptPayload, TruncatedFrame)

#: Status codes of a message that gRPC could not read, or that was too large: its length may have been changed.
_UNREADABLE = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNIMPLEMENTED}


def is_repeated(data: bytes, received: int) -> bool:
    """Return whether a message is one of the first `received` frames."""
    try:
        sequence = read_header(data)[0].sequence
    except WireError:
        return False
    return 0 < sequence <= received


def is_unreadable(error: Exception) -> bool:
    """Return whether gRPC could not read a message."""
    return isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) and error.code() in _UNREADABLE


class DamageLog:
    """Tells damage on the way from messages that were sent damaged: those come damaged again."""

    def __init__(self) -> None:
        self._after: int | None = None

    def is_new(self, received: int) -> bool:
        """Note a damaged message after `received` whole ones; return whether none was damaged in this place before."""
        before, self._after = self._after, received
        return before != received
