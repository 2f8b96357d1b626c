"""The control channel: messages both ways, and what is no message is an error."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dni.errors import WireError
from workers.system import channel
from workers.system.channel import Channel


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    mine, theirs = socket.socketpair()
    one = Channel(mine)
    yield one, theirs
    theirs.close()
    one.close()


def test_messages_cross_in_order_and_half_a_line_at_the_end_is_none(ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    theirs.sendall(b'{"event": "record", "loss": NaN}\n{"event": "d')
    theirs.sendall(b'one"}\n{"event": "err')
    theirs.shutdown(socket.SHUT_WR)
    first, second = one.messages()
    assert first["loss"] != first["loss"]
    assert second == {"event": "done"}
    one.say(peer="unix:/x", stop=True)
    assert theirs.recv(100) == b'{"peer": "unix:/x", "stop": true}\n'


@pytest.mark.parametrize(
    ("line", "shown"), [(b"hello\n", "b'hello"), (b"\xff\xfe\n", r"b'\\xff\\xfe"), (b"3\n", "b'3"), (b"\n", r"b'\\n'")]
)
def test_a_line_that_is_no_message_is_an_error(line: bytes, shown: str, ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    theirs.sendall(b'{"event": "done"}\n' + line)
    messages = one.messages()
    assert next(messages) == {"event": "done"}
    with pytest.raises(WireError, match=f"brought a line that is no message: {shown}"):
        next(messages)


def test_a_line_without_end_is_an_error(ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_LINE", 1000)
    one, theirs = ends
    theirs.sendall(b"x" * 1000)
    with pytest.raises(WireError, match="a line of more than 1000 bytes"):
        next(one.messages())


def test_the_other_side_gone_with_something_unread_is_the_end(ends: tuple[Channel, socket.socket]) -> None:
    one, theirs = ends
    one.say(stop=True)
    theirs.close()
    assert list(one.messages()) == []
    with pytest.raises(BrokenPipeError):
        one.say(stop=True)


def test_an_inherited_end_is_not_passed_on_to_other_processes() -> None:
    mine, theirs = socket.socketpair()
    with mine:
        theirs.set_inheritable(True)
        one = Channel.inherited(theirs.detach())
        assert not os.get_inheritable(one._end.fileno())
        one.close()
