"""The messages that come over a pair, and the control bytes among them that end a link."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from workers.comm.transports.torch_distributed.gloo import GlooPair, wait
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES
from workers.comm.transports.torch_distributed.sender import MESSAGES

#: First bytes of messages: nothing follows; all has been taken in. That of a header is another.
BYE, SEEN = WORDS = 0, 1

_ROOM = 8  # messages that may come before the first of them is read


def messages(pair: GlooPair) -> Iterator[memoryview]:
    """Messages, to be read at once, until the peer has said BYE, and SEEN to the BYE from here."""
    rooms = [torch.empty(MESSAGE_BYTES, dtype=torch.uint8) for _ in range(_ROOM)]
    works = [pair.recv(room, MESSAGES) for room in rooms]
    unheard = set(WORDS)
    for place in cycle(range(_ROOM)):
        wait(works[place])
        message = rooms[place].numpy().data
        unheard.discard(message[0])
        yield message
        if not unheard:
            return
        works[place] = pair.recv(rooms[place], MESSAGES)
