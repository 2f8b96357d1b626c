"""An edge between two threads of one process."""

from __future__ import annotations

from dataclasses import replace

import torch

from dni.errors import WorkerLost
from workers.frame import Frame
from workers.transports.base import ChannelEnd, Inbox


def local_channel(limit: int, delay_s: float = 0.0) -> tuple[ChannelEnd, ChannelEnd]:
    """The two ends of a link that holds at most `limit` frames each way and takes `delay_s` seconds."""
    there, back = Inbox(limit, delay_s), Inbox(limit, delay_s)
    return LocalEnd(inbox=back, outbox=there), LocalEnd(inbox=there, outbox=back)


def clone(frame: Frame) -> Frame:
    """A frame with memory of its own, contiguous as it would be after a journey over the wire."""
    layout = torch.contiguous_format
    tensors = {name: t.detach().clone(memory_format=layout) for name, t in frame.tensors.items()}
    return replace(frame, tensors=tensors)


class LocalEnd(ChannelEnd):
    """One end of a link between threads; clones what it sends."""

    def __init__(self, inbox: Inbox, outbox: Inbox) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._closed = False

    def send(self, frame: Frame) -> None:
        if self._closed:
            raise ValueError(f"step {frame.step}: {frame.kind.name} sent after this end was closed")
        if self._inbox.failure is not None:
            raise self._inbox.failure.with_traceback(None)
        self._outbox.put(clone(frame))

    def receive(self, timeout: float | None) -> Frame:
        return self._inbox.take(timeout)

    def poll(self) -> Frame | None:
        return self._inbox.poll()

    def pending(self) -> int:
        return self._inbox.pending()

    def close(self) -> None:
        self._closed = True
        self._outbox.fail(WorkerLost(f"{self._outbox.peer} closed the link"))
        self._inbox.fail(WorkerLost("this end of the link is closed"))
