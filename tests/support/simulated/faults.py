"""Faults of the link code, planted to show that the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from workers.comm.frame import Handshake
from workers.comm.transports.grpc.both_ends import ServerEnd
from workers.comm.transports.grpc.call import Call
from workers.comm.transports.grpc.end import GrpcEnd

Fault = tuple[type, str, Callable[..., Any]]

_drop_through, _continue_with, _offer = GrpcEnd._drop_through, GrpcEnd._continue_with, ServerEnd.offer


def _drops_one_too_many(end: GrpcEnd, number: int) -> None:
    _drop_through(end, number + 1 if end._sent - len(end._kept) < number else number)


def _sends_all_again(end: GrpcEnd, call: Call, theirs: Handshake) -> None:
    first_kept = end._sent - len(end._kept) + 1
    _continue_with(end, call, replace(theirs, next_sequence=min(first_kept, theirs.next_sequence)))


def _takes_any_connection(end: ServerEnd, call: Call, theirs: Handshake) -> None:
    end._newest = 0
    _offer(end, call, theirs)


#: Class, attribute and wrong behaviour of each.
UNACKNOWLEDGED: Fault = (GrpcEnd, "_acknowledge", lambda end, through: None)
TAKEN_TWICE: Fault = (GrpcEnd, "_is_repeated", lambda end, data: False)
SENT_TOO_LITTLE: Fault = (GrpcEnd, "_drop_through", _drops_one_too_many)
OLD_CONNECTION: Fault = (ServerEnd, "offer", _takes_any_connection)
SENT_TOO_MUCH: Fault = (GrpcEnd, "_continue_with", _sends_all_again)  # harmless: the other end drops what it has


@contextmanager
def planted(*faults: Fault) -> Iterator[None]:
    """Plant faults inside the block."""
    with ExitStack() as each:
        for fault in faults:
            each.enter_context(patch.object(*fault))
        yield
