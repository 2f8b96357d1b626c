"""Receive the messages of a gloo pair, and the control bytes that end a link."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

import torch

from workers.comm.transports.torch_distributed.gloo import GlooPair, wait
from workers.comm.transports.torch_distributed.packing import MESSAGE_BYTES
from workers.comm.transports.torch_distributed.sender import MESSAGES

#: First bytes of control messages: BYE: no more frames follow; SEEN: the BYE was received. Frames start differently.
BYE, SEEN = CONTROL_BYTES = 0, 1

_BUFFERS = 8  # messages that may arrive before one is read


def messages(pair: GlooPair) -> Iterator[memoryview]:
    """Yield messages until the peer has sent both BYE and SEEN. A message is valid until the next one is taken."""
    buffers = [torch.empty(MESSAGE_BYTES, dtype=torch.uint8) for _ in range(_BUFFERS)]
    works = [pair.recv(buffer, MESSAGES) for buffer in buffers]
    missing = set(CONTROL_BYTES)
    for index in cycle(range(_BUFFERS)):
        wait(works[index])
        message = buffers[index].numpy().data
        missing.discard(message[0])
        yield message
        if not missing:
            return
        works[index] = pair.recv(buffers[index], MESSAGES)
