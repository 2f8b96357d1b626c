"""Certificates with which the two ends of a link authenticate."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc

from dni.errors import ConfigError


@dataclass(frozen=True)
class Tls:
    """A certificate, its key, and the certificate of the authority that signed all certificates: PEM bytes."""

    cert: bytes
    key: bytes = field(repr=False)
    ca: bytes
    files: tuple[str, str, str] | None = field(default=None, compare=False)  #: to read again; None: never

    @classmethod
    def read(cls, cert: str, key: str, ca: str) -> Tls:
        """Read the three files. Raises ConfigError for one that cannot be read or is not in PEM format."""
        return cls(_read("cert", cert), _read("key", key), _read("ca", ca))

    @classmethod
    def watched(cls, cert: str, key: str, ca: str) -> Tls:
        """Read the three files as `read`, to be read again for later connections."""
        return replace(cls.read(cert, key, ca), files=(cert, key, ca))

    def of_server(self) -> grpc.ServerCertificateConfiguration:
        """Return the certificate of a server, and the authority of its clients."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.cert)], self.ca)

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
