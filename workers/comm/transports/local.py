"""An edge between two threads of one process."""

from __future__ import annotations

from dataclasses import replace

import torch

from dni.errors import WorkerLost
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd, Inbox, InboxEnd


def local_channel(limit: int, delay_s: float = 0.0) -> tuple[ChannelEnd, ChannelEnd]:
    """The two ends of a link that holds at most `limit` frames each way and takes `delay_s` seconds."""
    there, back = Inbox(limit, delay_s), Inbox(limit, delay_s)
    return LocalEnd(inbox=back, outbox=there), LocalEnd(inbox=there, outbox=back)


def clone(frame: Frame) -> Frame:
    """A frame with memory of its own, contiguous as it would be after a journey over the wire."""
    layout = torch.contiguous_format
    tensors = {name: t.detach().clone(memory_format=layout) for name, t in frame.tensors.items()}
    return replace(frame, tensors=tensors)


class LocalEnd(InboxEnd):
    """One end of a link between threads; clones what it sends."""

    def __init__(self, inbox: Inbox, outbox: Inbox) -> None:
        super().__init__(inbox)
        self._outbox = outbox

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        self._outbox.put(clone(frame))

    def close(self) -> None:
        self._closed = True
        self._outbox.fail(WorkerLost(f"{self._outbox.peer} closed the link"))
        self._inbox.fail(WorkerLost("this end of the link is closed"))
