"""Options of gRPC's channels and servers, and the threads of a server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

from workers.comm.transports.process_link import LinkSettings
from workers.system.background import background

Options = list[tuple[str, int]]

SERVICE, METHOD = "dni.v1.Stage", "Link"

#: Calls that a listener serves at once, including those of strangers; each has two threads.
MOST_CALLS = 16

#: Seconds that a client may be silent: at the start of a connection, without a call, and before its handshake.
SILENT_S = 5.0

_MOST_CONNECTIONS = 64  # well below the usual limits of file descriptors, 256 and more
_PING_MS = 2000  # pause between two pings of an idle connection


def of_server(settings: LinkSettings) -> Options:
    """Return the options of a listener. Connections beyond the most are closed, silent ones after `SILENT_S`."""
    return [
        ("grpc.http2.min_ping_interval_without_data_ms", 500),
        ("grpc.http2.max_ping_strikes", 0),
        ("grpc.so_reuseport", 0),  # make a second listener on a port an error
        ("grpc.max_allowed_incoming_connections", _MOST_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", round(1000 * SILENT_S)),
        ("grpc.max_connection_idle_ms", round(1000 * SILENT_S)),
        *_of_both_ends(settings),
    ]


def of_client(settings: LinkSettings) -> Options:
    """Return the options of a channel."""
    return [
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 500),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        *_of_both_ends(settings),
    ]


def _of_both_ends(settings: LinkSettings) -> Options:
    """Return the common options. A peer that answers no ping for `keepalive_s` seconds is lost."""
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


class DaemonThreads(futures.Executor):
    """Runs each call in a daemon thread; the interpreter would wait for the threads of a pool when it exits."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        future: futures.Future[Any] = futures.Future()

        def run() -> None:
            future.set_result(fn(*args, **kwargs))

        background("dni-call", run, future.set_exception).start()
        return future
