"""Runs the code of gRPC links on simulated threads, clocks and connections.

Only modules that the links import are replaced: `threading`, `queue`, `time` and `grpc`. The links' own code, from
`grpc_connect` and `GrpcListener` to the edges, is the code of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import grpc

from tests.support.simulated.calls import ClientCall, ServerCall
from tests.support.simulated.network import Connection, Network, Side
from tests.support.simulated.primitives import Queues, Threading, Time
from tests.support.simulated.scheduler import Task
from workers.comm import edge
from workers.comm.lasting import downstream, replaceable_end, upstream
from workers.comm.transports import inbox, process_link
from workers.comm.transports.grpc import both_ends, call, channel, end, link, refusal
from workers.comm.transports.grpc.options import METHOD, SERVICE
from workers.launch.rejoin import links


class _Channel:
    """A channel to one address; each call has a connection of its own."""

    def __init__(self, network: Network, address: str) -> None:
        self._network, self._address = network, address
        self._process = network.scheduler.running().process
        self._calls: list[ClientCall] = []

    def stream_stream(self, *_: Any) -> Callable[..., ClientCall]:
        def start(outgoing: Iterator[bytes], wait_for_ready: bool) -> ClientCall:
            assert wait_for_ready
            self._calls.append(started := ClientCall(self._network, self._process, self._address, outgoing))
            return started

        return start

    def close(self) -> None:
        for each in self._calls:
            each.cancel()


class _Server:
    """A server of one process at one address."""

    def __init__(self, network: Network) -> None:
        self._network, self._process = network, network.scheduler.running().process
        self._calls: list[ServerCall] = []

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler]) -> None:
        details: Any = SimpleNamespace(method=f"/{SERVICE}/{METHOD}", invocation_metadata=())
        self._behaviour = handlers[0].service(details).stream_stream

    def add_insecure_port(self, address: str) -> int:
        self._address = address
        return int(address.rpartition(":")[2])

    def start(self) -> None:
        self._network.listen(self._address, self._process, self._accept)

    def stop(self, grace: None) -> None:
        self._network.stop_listening(self._address)
        for each in self._calls:
            each.cancel()

    def _accept(self, client: Side) -> Connection:
        self._calls.append(served := ServerCall(self._network, self._process, self._behaviour))
        served.connection = Connection(self._network, client, served)
        return served.connection


class _Grpc:
    """Stands for the module `grpc`."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def insecure_channel(self, address: str, options: object) -> _Channel:
        return _Channel(self._network, address)

    def server(self, *_: object, **__: object) -> _Server:
        return _Server(self._network)

    def __getattr__(self, name: str) -> Any:
        return getattr(grpc, name)


@contextmanager
def simulated(network: Network) -> Iterator[None]:
    """Replace the modules inside the block, and silence the log: a link reports every cut."""
    scheduler = network.scheduler
    threads, queues, clock = Threading(scheduler), Queues(scheduler), Time(scheduler)

    def background(name: str, work: Callable[[], object], on_error: Callable[[Exception], object]) -> Task:
        return scheduler.spawn(name, _guarded(name, work, on_error))

    stand_ins: dict[str, Any] = {"threading": threads, "queue": queues, "time": clock, "background": background}
    stand_ins |= {"grpc": _Grpc(network), "randbits": scheduler.random.getrandbits}
    modules = (both_ends, call, channel, downstream, edge, end, inbox, link, process_link, refusal, replaceable_end)
    disabled = logging.root.manager.disable
    with ExitStack() as replaced:
        for module in (*modules, links, upstream):
            for name in stand_ins.keys() & vars(module).keys():
                replaced.enter_context(patch.object(module, name, stand_ins[name]))
        replaced.enter_context(patch.object(refusal, "refusal_reason", lambda address, tls: None))
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            scheduler.close()
            logging.disable(disabled)


def _guarded(name: str, work: Callable[[], object], on_error: Callable[[Exception], object]) -> Callable[[], object]:
    """As `workers.system.background`, whose thread this stands for."""

    def run() -> None:
        try:
            work()
        except Exception as error:
            on_error(call.as_thread_error(name, error))

    return run
