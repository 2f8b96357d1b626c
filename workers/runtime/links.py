"""The ends of the edges between stages, as the settings say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dni.errors import ConfigError
from workers.build.device import device_of
from workers.comm.address import UNIX
from workers.comm.transports.base import ChannelEnd, Listener
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.grpc.refusal import why_own_refused
from workers.comm.transports.grpc.tls import Tls
from workers.comm.transports.local import local_channel
from workers.config.schema import AUTO, BackendKind, TransportConfig, TransportKind
from workers.runtime.job import Job

if TYPE_CHECKING:
    from workers.comm.transports.torch_distributed.device_pair import MakeGroup

#: Frames an inbox may hold beyond W: handshake, mark, end and the answer to each.
SLACK = 8


@dataclass(frozen=True)
class Edge:
    """Both ends of the edge between two stages of one process."""

    downstream: ChannelEnd  #: held by stage k
    upstream: ChannelEnd  #: held by stage k+1
    listener: Listener | None = None

    def close(self) -> None:
        """Deliver what was sent, then end the link."""
        for end in (self.downstream, self.upstream, self.listener):
            if end is not None:
                end.close()


def edge_in_process(job: Job, k: int) -> Edge:
    """The edge between stages k and k+1: queues, or a socket."""
    if job.config.transport.kind is TransportKind.local:
        return Edge(*local_channel(_limit(job), delay_s=_delay(job)))
    listener = listen(job, k + 1)
    downstream = connect(job, k, listener.address)
    return Edge(downstream, listener.accept(job.config.transport.timeout_s), listener)


def listen(job: Job, index: int, bind: str | None = None) -> Listener:
    """The socket at which stage `index` waits for the stage before it; `bind`: where, unless as on one machine."""
    bind, settings = bind or _bind(job, index), _settings(job, index)
    if _by_torch(job):
        from workers.comm.transports.torch_distributed.link import (
            TorchDistributedListener,  # not every build of torch has it
        )

        return TorchDistributedListener(bind, direct=_direct(job), **settings)
    return GrpcListener(bind, tls=credentials(job.config.transport), ring=_ring(job), **settings)


def connect(job: Job, index: int, address: str) -> ChannelEnd:
    """The edge from stage `index` to the stage after it."""
    settings = _settings(job, index)
    if _by_torch(job):
        from workers.comm.transports.torch_distributed.link import torch_distributed_connect

        return torch_distributed_connect(address, direct=_direct(job), **settings)
    return grpc_connect(address, tls=credentials(job.config.transport), ring=_ring(job), **settings)


def _settings(job: Job, index: int) -> dict[str, Any]:
    transport = job.config.transport
    return {
        "handshake": job.handshake(index), "limit": _limit(job), "delay_s": _delay(job),
        "checksum": transport.checksum, "max_frame": transport.max_frame_mb << 20, "timeout_s": transport.timeout_s,
        "insecure": transport.insecure, "device": device_of(job.config, index),
    }  # fmt: skip


def _ring(job: Job) -> int:
    return job.config.transport.ring_mb << 20


def _by_torch(job: Job) -> bool:
    return job.config.transport.kind is TransportKind.torch_distributed


def _direct(job: Job) -> MakeGroup | None:
    """What makes groups for tensors that travel from GPU to GPU, if they are to."""
    if job.config.transport.backend is not BackendKind.nccl:
        return None
    from workers.comm.transports.torch_distributed import nccl

    return nccl.nccl_group


def credentials(transport: TransportConfig) -> Tls | None:
    """What both ends of every link prove who they are with. Raises ConfigError for files that nobody would accept."""
    files = transport.tls
    if files.cert is None:
        return None
    tls = Tls.read(files.cert, str(files.key), str(files.ca))
    reason = why_own_refused(tls)
    if reason is not None:
        raise ConfigError(f"{reason} (cert={files.cert}, key={files.key}, ca={files.ca})")
    return tls


def _bind(job: Job, index: int) -> str:
    """Where stage `index` listens; `auto` is a socket of this machine, in the folder that the run has for them."""
    transport = job.config.transport
    if transport.bind != AUTO:
        return transport.bind
    if job.sockets is None or transport.tls.cert is not None or _by_torch(job):
        return "127.0.0.1:0"
    return f"{UNIX}{job.sockets / f'stage-{index}'}"


def _limit(job: Job) -> int:
    return job.config.depth.window + SLACK


def _delay(job: Job) -> float:
    return job.config.transport.delay_ms / 1000
