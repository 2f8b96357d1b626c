"""What the two ends of a link prove to each other who they are with."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass
from pathlib import Path

import grpc

from dni.errors import ConfigError


@dataclass(frozen=True)
class Tls:
    """A certificate, its key, and the certificate of the authority that signed every stage's: bytes in PEM format."""

    cert: bytes
    key: bytes
    ca: bytes

    @classmethod
    def read(cls, cert: str, key: str, ca: str) -> Tls:
        """From files. Raises ConfigError for one that cannot be read, or is not what it should be."""
        return cls(*(_read(*file) for file in (("cert", cert), ("key", key), ("ca", ca))))

    def of_server(self) -> grpc.ServerCredentials:
        """Clients without a certificate of the same authority are turned away."""
        return grpc.ssl_server_credentials([(self.key, self.cert)], self.ca, require_client_auth=True)

    def of_client(self) -> grpc.ChannelCredentials:
        """Servers must have a certificate of the same authority that names the host they are reached at."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)


def _read(name: str, path: str) -> bytes:
    try:
        pem = Path(path).expanduser().read_bytes().removeprefix(BOM_UTF8)  # behind which gRPC finds nothing
    except OSError as error:
        raise ConfigError(f"transport.tls.{name}={path} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in pem:
        raise ConfigError(f"transport.tls.{name}={path} is not a file in PEM format")
    return pem
