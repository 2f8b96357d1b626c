"""The health check of gRPC: SERVING while a link lasts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import grpc
import pytest

from tests.support.commands import wait_for
from tests.support.transports import CLIENT, SERVER
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings

pytestmark = pytest.mark.usefixtures("no_thread_is_left")

SETTINGS = LinkSettings(timeout_s=10, reconnect_s=10, secret=b"the secret of this run", health=True)

#: Messages as `grpc/health/v1/health.proto` defines them.
WHOLE, STAGE, OTHER = b"", b"\x0a\x0cdni.v1.Stage", b"\x0a\x05other"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def ask(listener: GrpcListener, request: bytes = WHOLE) -> bytes:
    with grpc.insecure_channel(listener.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        answer: bytes = check(request, timeout=10)
        return answer


def test_a_listener_serves_from_the_first_handshake_to_the_end_of_the_link() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        assert ask(listener) == ask(listener, STAGE) == NOT_SERVING
        client = grpc_connect(listener.address, CLIENT, SETTINGS)
        server = listener.accept(10)
        assert ask(listener) == ask(listener, STAGE) == SERVING
        client.close()
        wait_for(lambda: ask(listener) == NOT_SERVING, "the end of the link", 10)
        server.close()


def test_another_service_is_not_found() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=SETTINGS)) as listener:
        with pytest.raises(grpc.RpcError) as error:
            ask(listener, OTHER)
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_listener_answers_nothing_unless_it_is_told_to() -> None:
    with closing(GrpcListener(handshake=SERVER, settings=replace(SETTINGS, health=False))) as listener:
        with pytest.raises(grpc.RpcError) as error:
            ask(listener)
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
