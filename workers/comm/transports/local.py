"""An edge between two threads of one process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from dni.errors import ConfigError, UsageError, WorkerLost
from dni.plugin import RunContext
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd, Edge, LinkContext, Listener, Transport
from workers.comm.transports.inbox import Inbox, InboxEnd


@dataclass
class Local(Transport):
    """Bounded queues between threads of one process; frames are cloned."""

    name: ClassVar[str] = "local"
    within_process: ClassVar[bool] = True

    def listen(self, bind: str, context: LinkContext) -> Listener:
        """Raise UsageError: only `edge` makes links."""
        raise UsageError("transport=local joins threads of one process: its links are made by `edge`")

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        """Raise UsageError, as `listen`."""
        raise UsageError("transport=local joins threads of one process: its links are made by `edge`")

    def edge(self, previous: LinkContext, next_stage: LinkContext) -> Edge:
        return Edge(*local_channel(previous.limit, self.delay_s))

    def check(self, run: RunContext) -> None:
        if not run.threads:
            raise ConfigError("transport=local joins threads of one process: use launch=threads, or transport=grpc")


def local_channel(limit: int, delay_s: float = 0.0) -> tuple[ChannelEnd, ChannelEnd]:
    """Return the two ends of a link with at most `limit` waiting frames and `delay_s` seconds of latency each way."""
    downstream, upstream = Inbox(limit, delay_s), Inbox(limit, delay_s)
    return LocalEnd(inbox=upstream, outbox=downstream), LocalEnd(inbox=downstream, outbox=upstream)


def clone(frame: Frame) -> Frame:
    """Copy a frame. Its tensors become contiguous, as after a transfer over the wire."""
    layout = torch.contiguous_format
    tensors = {name: t.detach().clone(memory_format=layout) for name, t in frame.tensors.items()}
    return replace(frame, tensors=tensors)


class LocalEnd(InboxEnd):
    """One end of a link between threads; it clones the frames that it sends."""

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
