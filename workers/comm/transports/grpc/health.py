"""The standard health check of gRPC (`grpc.health.v1`), for probes such as those of Kubernetes.

Its messages are so small that they are written out here: a request has the name of a service, an answer one number.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from workers.comm.transports.grpc.options import SERVICE

_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"  # field 1 of HealthCheckResponse: its status

#: Requests for the whole server, and for the service of stages: field 1 of HealthCheckRequest.
_KNOWN = (b"", bytes((0x0A, len(SERVICE))) + SERVICE.encode())


def health_handler(serves: Callable[[], bool]) -> grpc.GenericRpcHandler[bytes, bytes]:
    """Return the handler that answers SERVING while `serves()`, else NOT_SERVING; NOT_FOUND for other services."""

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in _KNOWN:
            context.abort(grpc.StatusCode.NOT_FOUND, f"only {SERVICE} is served here")
        return _SERVING if serves() else _NOT_SERVING

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)
