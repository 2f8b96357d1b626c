"""Links between processes over gRPC: one bidirectional call per edge, as long as the run and its connection.

    grpc_connect (stage k-1) ── HANDSHAKE, STEP ... END ──> GrpcListener.accept (stage k)
                            <── HANDSHAKE, GRADIENT | DONE ──

The upstream stage is the client. All messages are frames of `workers.comm.codec`. When the connection is lost, the
client opens a new call, and both ends continue with it (`workers.comm.transports.grpc.end`).
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from dataclasses import replace
from secrets import randbits
from typing import Any, NoReturn, cast

import grpc

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout, WireError, WorkerLost
from workers.comm.address import UNIX, check_address
from workers.comm.frame import Handshake, agree
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.both_ends import ClientEnd, ServerEnd
from workers.comm.transports.grpc.call import Call
from workers.comm.transports.grpc.refusal import own_certificate_error, receive_greeting
from workers.comm.transports.grpc.tls import Tls
from workers.comm.transports.process_link import DEFAULT_SETTINGS, Accepting, LinkSettings
from workers.system.background import as_thread_error, background

log = logging.getLogger(__name__)

_SERVICE, _METHOD = "dni.v1.Stage", "Link"
_MOST_CLIENTS = 16  # calls that a listener serves at once, including those of strangers

_PING_MS = 2000  # pause between two pings of an idle connection
_SERVER = [
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),  # make a second listener on a port an error
]
_CLIENT = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
]


def grpc_connect(
    address: str,
    handshake: Handshake,
    settings: LinkSettings = DEFAULT_SETTINGS,
    *,
    tls: Tls | None = None,
) -> ChannelEnd:
    """Connect to the stage that listens at `address` ("host:port" or "unix:PATH"); return the upstream end.

    The listener may start later, within `settings.timeout_s`. With `tls`, the link is encrypted and both ends
    authenticate; without, it is plaintext.

    Raises PeerTimeout if the listener does not answer in time, HandshakeRefused if the two disagree, ConfigError for
    an address that is not allowed, WorkerLost if the listener went away.
    """
    check_address(address, settings.insecure or tls is not None)
    peer, timeout_s = f"stage {handshake.stage + 1} at {address}", settings.timeout_s
    handshake = _of_new_link(handshake)
    channel = _channel(address, [*_CLIENT, *_options(settings)], tls)
    stub = channel.stream_stream(f"/{_SERVICE}/{_METHOD}", None, None)
    end = ClientEnd(peer, _with_ring(settings, address), handshake, stub)
    try:
        theirs = receive_greeting(end.greeting, peer, address, tls, timeout_s)
        agree(client=handshake, server=theirs)
        end.begin(theirs, channel.close)
    except PeerTimeout:
        end.abandon()
        channel.close()
        raise PeerTimeout(
            f"stage {handshake.stage}: no answer from {peer} within {timeout_s:g} s; is it running there?"
        ) from None
    except BaseException:
        end.abandon()
        channel.close()
        raise
    return end


class GrpcListener(Accepting):
    """Accepts the gRPC connection of the previous stage.

    `address` is the address to connect to, "host:port" or "unix:PATH". Refused clients, and clients that are not
    stages, have no effect on the link.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        handshake: Handshake,
        settings: LinkSettings = DEFAULT_SETTINGS,
        tls: Tls | None = None,
    ) -> None:
        """Listen at `bind`; port 0 means any free port. `tls` as in `grpc_connect`.

        Raises ConfigError if `bind` is taken, impossible or not allowed.
        """
        host = check_address(bind, settings.insecure or tls is not None)
        super().__init__(_of_new_link(handshake), _MOST_CLIENTS)
        self._settings = _with_ring(settings, bind)
        self._ends: set[ServerEnd] = set()
        self._server = grpc.server(
            cast(futures.ThreadPoolExecutor, _DaemonThreads()),
            options=[*_SERVER, *_options(settings)],
            maximum_concurrent_rpcs=_MOST_CLIENTS,
        )
        handler = grpc.stream_stream_rpc_method_handler(self._link)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        try:
            port = self._add_port(bind, tls)
        except RuntimeError:
            reason = None if tls is None else own_certificate_error(tls)
            raise ConfigError(
                f"stage {handshake.stage}: cannot listen at {bind}; {reason or 'choose a free port'}"
            ) from None
        self.address = bind if bind.startswith(UNIX) else f"{host}:{port}"
        self._server.start()

    def close(self) -> None:
        """Close every accepted end (delivering its sent frames) and stop listening. Idempotent."""
        for end in list(self._ends):
            end.close()
        self._server.stop(None)
        with suppress(queue.Full):
            self._accepted.put_nowait(WorkerLost(f"the listener at {self.address} is closed"))

    def _link(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        peer = f"the client at {self._where(context)}"
        call = Call(peer)
        end = ServerEnd(peer, self._settings, self._handshake, call)
        call.start(context, requests, end.decode)
        try:
            theirs = call.greeting(self._settings.timeout_s)
            agree(client=theirs, server=self._handshake)
            if theirs.connection:
                self._end_of(theirs).offer(call, theirs)
            else:
                end.rename(f"stage {theirs.stage} at {self._where(context)}")
                self._accepted.put_nowait(end)
                end.begin(theirs)
                self._ends.add(end)
        except (WireError, WorkerLost, queue.Full) as error:
            call.dismiss()
            self._refuse(error, context)
        except Exception as error:  # a bug: gRPC would only log it, and `accept` would time out
            call.dismiss()
            self.died(as_thread_error("dni-call", error))
            raise
        yield from call.outgoing()

    def _end_of(self, theirs: Handshake) -> ServerEnd:
        """Return the end of a link that the previous stage wants to continue. Raises HandshakeRefused without one."""
        for end in list(self._ends):
            if end.is_of(theirs):
                return end
        raise HandshakeRefused(
            f"handshake refused: stage {theirs.stage} connects again, and stage {self._handshake.stage} has no link "
            f"{theirs.link}: its process was started again, and can only continue from a checkpoint"
        )

    def _add_port(self, bind: str, tls: Tls | None) -> int:
        if tls is None:
            return self._server.add_insecure_port(bind)
        return self._server.add_secure_port(bind, tls.of_server())

    def _where(self, context: grpc.ServicerContext) -> str:
        """Return a client's address; over a unix socket, that of the listener."""
        return self.address if self.address.startswith(UNIX) else str(context.peer())

    def _refuse(self, error: Exception, context: grpc.ServicerContext) -> NoReturn:
        log.warning("stage %d refused a client at %s: %s", self._handshake.stage, self._where(context), error)
        refused = isinstance(error, HandshakeRefused)
        if refused:
            with suppress(queue.Full):
                self._accepted.put_nowait(error)
        code = grpc.StatusCode.FAILED_PRECONDITION if refused else grpc.StatusCode.INVALID_ARGUMENT
        context.abort(code, str(error)[:1000])
        raise AssertionError("abort raises")


def _with_ring(settings: LinkSettings, address: str) -> LinkSettings:
    """Drop the ring unless both ends are on one machine, which only a unix socket guarantees."""
    return settings if address.startswith(UNIX) else replace(settings, ring=0)


def _channel(address: str, options: list[tuple[str, int]], tls: Tls | None) -> grpc.Channel:
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, tls.of_client(), options=options)


def _of_new_link(handshake: Handshake) -> Handshake:
    """Return the handshake with a number that no other process has drawn."""
    return replace(handshake, link=1 + randbits(63))


def _options(settings: LinkSettings) -> list[tuple[str, int]]:
    """Return the options of both ends. A peer that answers no ping for `keepalive_s` seconds is lost."""
    silent_ms = max(1, round(1000 * settings.keepalive_s))
    return [
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", silent_ms),
        ("grpc.http2.ping_timeout_ms", silent_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", settings.max_frame),
        ("grpc.max_send_message_length", settings.max_frame),
    ]


class _DaemonThreads(futures.Executor):
    """Runs each call in a daemon thread; the interpreter would wait for the threads of a pool when it exits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()

        def run() -> None:
            future.set_result(fn(*args, **kwargs))

        background("dni-call", run, future.set_exception).start()
        return future
