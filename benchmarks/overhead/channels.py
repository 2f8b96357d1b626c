"""Ways to bring tensors from one process to another and back: the project's links, and what they are held against."""

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

#: Tensors that may be under way where a sender has to be told how far the receiver is.
WINDOW = 8
#: Seconds until a benchmark gives up.
TIMEOUT_S = 60.0
_MOST = 2**30  # bytes of a message over grpcio


class Way(ABC):
    """One end of a way; end 1 listens in a folder, end 0 connects to the address that it got."""

    #: Whether a sender has to be told how far the receiver is; others wait by themselves.
    credit = True

    @abstractmethod
    def listen(self, folder: Path) -> str:
        """Where end 1 waits."""

    @abstractmethod
    def accept(self) -> None:
        """End 1: wait for the other."""

    @abstractmethod
    def connect(self, address: str) -> None:
        """End 0: join end 1."""

    @abstractmethod
    def send(self, tensor: Tensor) -> None:
        """A float32 tensor, (n,); it may be written to afterwards."""

    @abstractmethod
    def receive(self, size: int) -> Tensor:
        """The next tensor, (size,)."""

    @abstractmethod
    def close(self) -> None:
        """End the connection."""


class Tcp(Way):
    """A plain socket, written to and read from in a loop: as fast as TCP goes."""

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


class Link(Way):
    """A link of the project: whole frames, checked as in a run. `unix`: over a socket of this machine."""

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
    """The same over torch.distributed."""

    listener = TorchDistributedListener
    join = staticmethod(torch_distributed_connect)


class Protobuf(Way):
    """A message with one field of type bytes over grpcio's own serializers: what one would write first."""

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


class Gloo(Way):
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
        self.under_way.append((dist.isend(tensor, self.other), tensor))  # dropped too early, it would not arrive

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


#: By name, as in the table.
WAYS: dict[str, Callable[[], Way]] = {
    "raw TCP": Tcp,
    "protobuf bytes over gRPC": Protobuf,
    "gRPC": Link,
    "gRPC, unix socket": partial(Link, unix=True, ring=0),
    "gRPC, shared memory": partial(Link, unix=True),
    "torch.distributed": GlooLink,
    "gloo": Gloo,
}
