"""Channels and servers that read their certificates again when the files change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from dni.errors import ConfigError
from workers.comm.transports.grpc.options import METHOD, SERVICE, Options
from workers.comm.transports.grpc.refusal import own_certificate_error
from workers.comm.transports.grpc.tls import Tls


class RenewedChannel:
    """A channel to one address. When its certificates have changed, the next call has a new channel."""

    def __init__(self, address: str, options: Options, tls: Tls | None) -> None:
        self._address, self._options, self._tls = address, options, tls
        self._channel = self._open()

    def call(self, outgoing: Iterator[bytes]) -> Any:
        """Open a call, which waits for the connection."""
        if self._tls is not None and (renewed := newest(self._tls)) != self._tls:
            self._channel.close()
            self._tls = renewed
            self._channel = self._open()
        method = self._channel.stream_stream(f"/{SERVICE}/{METHOD}", None, None)
        return method(outgoing, wait_for_ready=True)

    def close(self) -> None:
        """Close the channel and end its calls."""
        self._channel.close()

    def _open(self) -> grpc.Channel:
        if self._tls is None:
            return grpc.insecure_channel(self._address, options=self._options)
        return grpc.secure_channel(self._address, self._tls.of_client(), options=self._options)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Return credentials that refuse clients without a certificate of the same authority, read anew for each."""
    used = tls

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal used
        found = newest(used)
        if found == used:
            return None
        used = found
        return found.of_server()

    return grpc.dynamic_ssl_server_credentials(
        tls.of_server(),
        renewed,  # type: ignore[arg-type]  # the stubs lack None, which means: no change
        require_client_authentication=True,
    )


def newest(tls: Tls) -> Tls:
    """Return the certificates that the files have now; `tls` if these cannot be used, as when half of them are new."""
    if tls.files is None:
        return tls
    try:
        found = Tls.watched(*tls.files)
    except ConfigError:
        return tls
    return tls if found == tls or own_certificate_error(found) else found
