"""Channels that carry tensors between two processes: the project's links and the ones they are compared with."""

from __future__ import annotations

import queue
import socket
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import torch
import torch.distributed as dist
from google.protobuf.wrappers_pb2 import BytesValue
from torch import Tensor

from workers.comm.frame import PROTOCOL_VERSION, Frame, Handshake, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect

#: Most tensors in flight, for channels whose sender needs acknowledgements.
WINDOW = 8
#: Seconds until a benchmark gives up.
TIMEOUT_S = 60.0
_MOST = 2**30  # bytes of a message over grpcio


class Channel(ABC):
    """One end of a channel. End 1 listens in a folder; end 0 connects to the returned address."""

    #: Whether the benchmark must acknowledge tensors; other channels limit the sender themselves.
    credit = True

    @abstractmethod
    def listen(self, folder: Path) -> str:
        """Start to listen at end 1 and return the address."""

    @abstractmethod
    def accept(self) -> None:
        """Wait for end 0 at end 1."""

    @abstractmethod
    def connect(self, address: str) -> None:
        """Connect end 0 to end 1."""

    @abstractmethod
    def send(self, tensor: Tensor) -> None:
        """Send a float32 tensor, (n,), which may be overwritten afterwards."""

    @abstractmethod
    def receive(self, size: int) -> Tensor:
        """Receive the next tensor, (size,)."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""


class Tcp(Channel):
    """A plain socket, written and read in a loop: the speed of raw TCP."""

    credit = False

    def __init__(self) -> None:
        self.buffer = torch.empty(0)

    def listen(self, folder: Path) -> str:
        self.server = socket.create_server(("127.0.0.1", 0))
        return f"127.0.0.1:{self.server.getsockname()[1]}"

    def accept(self) -> None:
        self.socket, _ = self.server.accept()
        self._set()

    def connect(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)))
        self._set()

    def send(self, tensor: Tensor) -> None:
        self.socket.sendall(memoryview(tensor.numpy()))  # type: ignore[arg-type]

    def receive(self, size: int) -> Tensor:
        if len(self.buffer) != size:
            self.buffer = torch.empty(size)
        view, done = memoryview(self.buffer.numpy()).cast("B"), 0  # type: ignore[arg-type]
        while done < len(view):
            done += self.socket.recv_into(view[done:])
        return self.buffer

    def close(self) -> None:
        self.socket.close()

    def _set(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Link(Channel):
    """A link of the project with whole frames, checked as in a run. `unix` uses a Unix socket."""

    end: ChannelEnd
    listener: Any = GrpcListener
    join: Any = staticmethod(grpc_connect)

    def __init__(self, unix: bool = False, **settings: Any) -> None:
        self.unix = unix
        self.settings = LinkSettings(limit=2 * WINDOW, timeout_s=TIMEOUT_S, **settings)

    def listen(self, folder: Path) -> str:
        bind = f"unix:{folder / 'stage-1'}" if self.unix else "127.0.0.1:0"
        self.listener = self.listener(bind, handshake=_handshake(1), settings=self.settings)
        return str(self.listener.address)

    def accept(self) -> None:
        self.end = self.listener.accept(TIMEOUT_S)

    def connect(self, address: str) -> None:
        self.end = self.join(address, _handshake(0), self.settings)

    def send(self, tensor: Tensor) -> None:
        self.end.send(Frame(Kind.STEP, 1, tensors={"value": tensor}))

    def receive(self, size: int) -> Tensor:
        return self.end.receive(TIMEOUT_S).tensors["value"]

    def close(self) -> None:
        self.end.close()


class GlooLink(Link):
    """A link over torch.distributed."""

    listener = TorchDistributedListener
    join = staticmethod(torch_distributed_connect)


class Protobuf(Channel):
    """A message with one bytes field over grpcio's own serializers: the straightforward implementation."""

    def __init__(self) -> None:
        self.messages: Any = None
        self.outgoing: queue.SimpleQueue[BytesValue | None] = queue.SimpleQueue()
        self.incoming: queue.SimpleQueue[Iterator[BytesValue]] = queue.SimpleQueue()
        self.options = [("grpc.max_receive_message_length", _MOST), ("grpc.max_send_message_length", _MOST)]

    def listen(self, folder: Path) -> str:
        self.server = grpc.server(ThreadPoolExecutor(1), options=self.options)
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, BytesValue.FromString, BytesValue.SerializeToString
        )
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Plain", {"Link": handler}),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return f"127.0.0.1:{port}"

    def accept(self) -> None:
        self.messages = self.incoming.get(timeout=TIMEOUT_S)

    def connect(self, address: str) -> None:
        channel = grpc.insecure_channel(address, options=self.options)
        call = channel.stream_stream("/Plain/Link", BytesValue.SerializeToString, BytesValue.FromString)
        self.messages = call(iter(self.outgoing.get, None))

    def send(self, tensor: Tensor) -> None:
        self.outgoing.put(BytesValue(value=tensor.numpy().tobytes()))

    def receive(self, size: int) -> Tensor:
        return torch.frombuffer(bytearray(next(self.messages).value), dtype=torch.float32)

    def close(self) -> None:
        self.outgoing.put(None)

    def _serve(self, messages: Iterator[BytesValue], context: grpc.ServicerContext) -> Iterator[BytesValue]:
        self.incoming.put(messages)
        yield from iter(self.outgoing.get, None)


class Gloo(Channel):
    """isend and irecv of torch.distributed, over TCP."""

    credit = False

    def listen(self, folder: Path) -> str:
        self.address = str(folder / "store")
        return self.address

    def accept(self) -> None:
        self._join(self.address, 1)

    def connect(self, address: str) -> None:
        self._join(address, 0)

    def send(self, tensor: Tensor) -> None:
        while len(self.under_way) >= WINDOW:
            self.under_way.popleft()[0].wait()
        self.under_way.append((dist.isend(tensor, self.other), tensor))  # the tensor must live until it is sent

    def receive(self, size: int) -> Tensor:
        tensor = torch.empty(size)
        dist.irecv(tensor, self.other).wait()  # type: ignore[union-attr]
        return tensor

    def close(self) -> None:
        dist.destroy_process_group()

    def _join(self, address: str, rank: int) -> None:
        store = dist.FileStore(address, 2)  # type: ignore[attr-defined]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT_S))
        self.other = 1 - rank
        self.under_way: deque[tuple[Any, Tensor]] = deque()


def _handshake(stage: int) -> Handshake:
    return Handshake(PROTOCOL_VERSION, "benchmark", stage, 2, "", 0, 0)


#: Channels by their name in the table.
CHANNELS: dict[str, Callable[[], Channel]] = {
    "raw TCP": Tcp,
    "protobuf bytes over gRPC": Protobuf,
    "gRPC": Link,
    "gRPC, unix socket": partial(Link, unix=True, ring=0),
    "gRPC, shared memory": partial(Link, unix=True),
    "torch.distributed": GlooLink,
    "gloo": Gloo,
}
