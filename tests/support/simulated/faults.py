"""Faults of the link code, planted to show that the simulation finds them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any
from unittest.mock import patch

from dni.errors import WorkerLost
from workers.comm.frame import Handshake
from workers.comm.lasting.downstream import LastingDownstream
from workers.comm.lasting.upstream import LastingUpstream
from workers.comm.transports.grpc import end as grpc_end
from workers.comm.transports.grpc.both_ends import ServerEnd
from workers.comm.transports.grpc.call import Call
from workers.comm.transports.grpc.end import GrpcEnd

Fault = tuple[type | ModuleType, str, Callable[..., Any]]

_drop_through, _continue_with, _offer = GrpcEnd._drop_through, GrpcEnd._continue_with, ServerEnd.offer
_wait_for_link, _go_without = LastingUpstream._wait_for_link, LastingDownstream._go_without


def _drops_one_too_many(end: GrpcEnd, number: int) -> None:
    _drop_through(end, number + 1 if end._sent - len(end._kept) < number else number)


def _sends_all_again(end: GrpcEnd, call: Call, theirs: Handshake) -> None:
    first_kept = end._sent - len(end._kept) + 1
    _continue_with(end, call, replace(theirs, next_sequence=min(first_kept, theirs.next_sequence)))


def _takes_any_connection(end: ServerEnd, call: Call, theirs: Handshake) -> None:
    end._newest = 0
    _offer(end, call, theirs)


def _counts_on(edge: LastingUpstream, lost: WorkerLost) -> None:
    received = edge._received
    _wait_for_link(edge, lost)
    edge._received = received


def _forgets_what_was_in_flight(edge: LastingDownstream, lost: WorkerLost) -> None:
    skipped = edge.skipped
    _go_without(edge, lost)
    edge.skipped = skipped


#: Class or module, attribute and wrong behaviour of each.
UNACKNOWLEDGED: Fault = (GrpcEnd, "_acknowledge", lambda end, through: None)
TAKEN_TWICE: Fault = (grpc_end, "is_repeated", lambda data, received: False)
SENT_TOO_LITTLE: Fault = (GrpcEnd, "_drop_through", _drops_one_too_many)
OLD_CONNECTION: Fault = (ServerEnd, "offer", _takes_any_connection)
NUMBERS_GO_ON: Fault = (LastingUpstream, "_wait_for_link", _counts_on)
NOT_COUNTED: Fault = (LastingDownstream, "_go_without", _forgets_what_was_in_flight)
SENT_TOO_MUCH: Fault = (GrpcEnd, "_continue_with", _sends_all_again)  # harmless: the other end drops what it has


@contextmanager
def planted(*faults: Fault) -> Iterator[None]:
    """Plant faults inside the block."""
    with ExitStack() as each:
        for fault in faults:
            each.enter_context(patch.object(*fault))
        yield


def assert_found(check: Callable[[int], object], most_seeds: int, message: str) -> None:
    """Assert that one of so many seeds fails with a message, and fails in the same way again."""
    seed, found = _first_failure(check, range(most_seeds))
    assert re.search(message, found), found
    assert found.startswith(f"SEED={seed}: ")
    assert _first_failure(check, [seed]) == (seed, found)


def _first_failure(check: Callable[[int], object], seeds: Iterable[int]) -> tuple[int, str]:
    for seed in seeds:
        try:
            check(seed)
        except AssertionError as error:
            return seed, str(error)
    raise AssertionError("no seed has failed")
