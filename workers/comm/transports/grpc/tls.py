"""Certificates with which the two ends of a link authenticate."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

import grpc

from dni.errors import ConfigError


@dataclass(frozen=True)
class Tls:
    """A certificate, its key, and the certificate of the authority that signed all certificates: PEM bytes."""

    cert: bytes
    key: bytes
    ca: bytes

    @classmethod
    def read(cls, cert: str, key: str, ca: str) -> Tls:
        """Read the three files. Raises ConfigError for one that cannot be read or is not in PEM format."""
        return cls(*(_read(*file) for file in (("cert", cert), ("key", key), ("ca", ca))))

    def of_server(self) -> grpc.ServerCredentials:
        """Return credentials that refuse clients without a certificate of the same authority."""
        return grpc.ssl_server_credentials([(self.key, self.cert)], self.ca, require_client_auth=True)

    def of_client(self) -> grpc.ChannelCredentials:
        """Return credentials that require a server certificate of the same authority with the server's host name."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


def _read(name: str, path: str) -> bytes:
    try:
        pem = Path(path).expanduser().read_bytes().removeprefix(BOM_UTF8)  # gRPC cannot parse a file with a BOM
    except OSError as error:
        raise ConfigError(f"transport.tls.{name}={path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in pem:
        raise ConfigError(f"transport.tls.{name}={path} is not a file in PEM format")
    return pem
