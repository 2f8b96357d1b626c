"""The ends of the edges between stages, as the settings say."""

from __future__ import annotations

from workers.build.device import device_of
from workers.comm.transports.base import ChannelEnd, Edge, LinkContext, Listener
from workers.runtime.job import Job

#: Frames an inbox may hold beyond W: handshake, mark, end and the answer to each.
SLACK = 8


def edge_in_process(job: Job, k: int) -> Edge:
    """The edge between stages k and k+1: queues, or a socket."""
    return job.config.transport.edge(_context(job, k), _context(job, k + 1))


def listen(job: Job, index: int, bind: str | None = None) -> Listener:
    """The socket at which stage `index` waits for the stage before it; `bind`: where, unless as on one machine."""
    transport, context = job.config.transport, _context(job, index)
    return transport.listen(bind or transport.on_this_machine(context), context)


def connect(job: Job, index: int, address: str) -> ChannelEnd:
    """The edge from stage `index` to the stage after it."""
    return job.config.transport.connect(address, _context(job, index))


def _context(job: Job, index: int) -> LinkContext:
    limit = job.config.depth.max_in_flight + SLACK
    return LinkContext(job.handshake(index), limit, device_of(job.config, index), job.sockets)
