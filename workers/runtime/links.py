"""Create the ends of the edges between stages from the settings."""

from __future__ import annotations

from workers.build.device import device_of
from workers.comm.transports.base import ChannelEnd, Edge, LinkContext, Listener
from workers.runtime.job import Job

#: Frames that an inbox may hold beyond the replies to W frames: handshake, checkpoint, end and their replies.
SLACK = 8


def edge_in_process(job: Job, k: int) -> Edge:
    """Create the edge between stages k and k+1 of one process."""
    return job.config.transport.edge(_context(job, k), _context(job, k + 1))


def listen(job: Job, index: int, bind: str | None = None) -> Listener:
    """Listen for the stage before stage `index`, at address `bind` or else at an address of this machine."""
    transport, context = job.config.transport, _context(job, index)
    return transport.listen(bind or transport.on_this_machine(context), context)


def connect(job: Job, index: int, address: str) -> ChannelEnd:
    """Connect stage `index` to the stage after it, which listens at `address`."""
    return job.config.transport.connect(address, _context(job, index))


def _context(job: Job, index: int) -> LinkContext:
    depth = job.config.depth
    limit = depth.max_in_flight * depth.most_replies + SLACK
    return LinkContext(job.handshake(index), limit, device_of(job.config, index), job.sockets, job.secret)
