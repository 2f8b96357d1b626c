"""The ends of the edges between stages, as the settings say."""

from __future__ import annotations

from workers.assembly import Job
from workers.transports.base import ChannelEnd
from workers.transports.grpc import GrpcListener, grpc_connect
from workers.transports.local import local_channel

#: Frames an inbox may hold beyond W: handshake, mark, end and the answer to each.
SLACK = 8


def local_edge(job: Job) -> tuple[ChannelEnd, ChannelEnd]:
    """Both ends of an edge between two threads."""
    return local_channel(_limit(job), delay_s=_delay(job))


def grpc_edge(job: Job, k: int) -> tuple[ChannelEnd, ChannelEnd]:
    """Both ends of the edge between stages k and k+1, over a loopback socket."""
    listener = listen(job, k + 1)
    downstream = connect(job, k, listener.address)
    return downstream, listener.accept(job.config.transport.timeout_s)


def listen(job: Job, index: int) -> GrpcListener:
    """The socket at which stage `index` waits for the stage before it."""
    transport = job.config.transport
    return GrpcListener(
        transport.bind, handshake=job.handshake(index), limit=_limit(job), delay_s=_delay(job),
        checksum=transport.checksum, max_frame=transport.max_frame_mb << 20,
    )  # fmt: skip


def connect(job: Job, index: int, address: str) -> ChannelEnd:
    """The edge from stage `index` to the stage after it."""
    transport = job.config.transport
    return grpc_connect(
        address, handshake=job.handshake(index), limit=_limit(job), delay_s=_delay(job),
        checksum=transport.checksum, max_frame=transport.max_frame_mb << 20, timeout_s=transport.timeout_s,
    )  # fmt: skip


def _limit(job: Job) -> int:
    return job.config.depth.window + SLACK


def _delay(job: Job) -> float:
    return job.config.transport.delay_ms / 1000
