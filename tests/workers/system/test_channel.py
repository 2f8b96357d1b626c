"""The control channel: messages both ways, and errors for lines that are not messages."""

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
    end = Channel(mine)
    yield end, theirs
    theirs.close()
    end.close()


def test_messages_arrive_in_order_and_an_incomplete_last_line_is_ignored(ends: tuple[Channel, socket.socket]) -> None:
    end, theirs = ends
    theirs.sendall(b'{"event": "record", "loss": NaN}\n{"event": "d')
    theirs.sendall(b'one"}\n{"event": "err')
    theirs.shutdown(socket.SHUT_WR)
    record, done = end.messages()
    assert record["loss"] != record["loss"]
    assert done == {"event": "done"}
    end.say(peer="unix:/x", stop=True)
    assert theirs.recv(100) == b'{"peer": "unix:/x", "stop": true}\n'


@pytest.mark.parametrize(
    ("line", "shown"), [(b"hello\n", "b'hello"), (b"\xff\xfe\n", r"b'\\xff\\xfe"), (b"3\n", "b'3"), (b"\n", r"b'\\n'")]
)
def test_a_line_that_is_not_a_message_is_an_error(line: bytes, shown: str, ends: tuple[Channel, socket.socket]) -> None:
    end, theirs = ends
    theirs.sendall(b'{"event": "done"}\n' + line)
    messages = end.messages()
    assert next(messages) == {"event": "done"}
    with pytest.raises(WireError, match=f"brought a line that is no message: {shown}"):
        next(messages)


def test_an_endless_line_is_an_error(ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "LONGEST_LINE", 1000)
    end, theirs = ends
    theirs.sendall(b"x" * 1000)
    with pytest.raises(WireError, match="a line of more than 1000 bytes"):
        next(end.messages())


def test_messages_end_when_the_other_side_closes_with_unread_data(ends: tuple[Channel, socket.socket]) -> None:
    end, theirs = ends
    end.say(stop=True)
    theirs.close()
    assert list(end.messages()) == []
    with pytest.raises(BrokenPipeError):
        end.say(stop=True)


def test_child_processes_do_not_inherit_an_inherited_end() -> None:
    mine, theirs = socket.socketpair()
    with mine:
        theirs.set_inheritable(True)
        end = Channel.inherited(theirs.detach())
        assert not os.get_inheritable(end._end.fileno())
        end.close()
