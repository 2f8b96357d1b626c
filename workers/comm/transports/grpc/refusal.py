"""Find out why two ends of a link cannot connect. gRPC does not say, so repeat the handshake with Python's TLS."""

from __future__ import annotations

import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dni.errors import HandshakeRefused, PeerTimeout
from workers.comm.address import UNIX
from workers.comm.frame import Handshake
from workers.comm.transports.grpc.tls import Tls

_PROBE_AFTER_S = 1.0  # look for the reason after this long without an answer
_PROBE_TIMEOUT_S = 2.0  # timeout of each operation on the test connection

_HANDSHAKE_ROUNDS = 4  # message rounds of an in-memory handshake; it needs two

#: Causes and remedies, by the verify code of OpenSSL.
_CAUSES = {
    9: "is not valid yet: wait, or set the clocks right",
    10: "has expired: make a new one",
    **dict.fromkeys((2, 7, 18, 19, 20, 21), "is not signed by the authority in transport.tls.ca: all need the same"),
}
_WRONG_NAME = (62, 64)  # verify codes: mismatch of host name, of IP address

_NOT_TLS = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def receive_greeting(
    greeting: Callable[[float], Handshake], peer: str, address: str, tls: Tls | None, timeout_s: float
) -> Handshake:
    """Return the result of `greeting`, waiting at most `timeout_s` seconds.

    gRPC retries even when it cannot succeed, so look for the reason meanwhile. Raises HandshakeRefused as soon as a
    reason is found, PeerTimeout after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        remaining = deadline - time.monotonic()
        try:
            return greeting(max(0.0, min(_PROBE_AFTER_S, remaining)))
        except PeerTimeout:
            reason = refusal_reason(address, tls)
            if reason is not None:
                raise HandshakeRefused(f"no link to {peer}: {reason}") from None
            if remaining <= _PROBE_AFTER_S:
                raise


def own_certificate_error(tls: Tls) -> str | None:
    """Return why every peer with the same authority would refuse this certificate; None if none would."""
    try:
        client, server = _context(tls, ssl.PROTOCOL_TLS_CLIENT), _context(tls, ssl.PROTOCOL_TLS_SERVER)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return (
                "transport.tls.key does not match transport.tls.cert: give the key that the certificate was made with"
            )
        return f"transport.tls.cert, key and ca cannot be used: {error.reason or error}"
    client.check_hostname = False
    try:
        _handshake_in_memory(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _CAUSES:
            return f"the certificate in transport.tls.cert {_CAUSES[error.verify_code]}"
    except ssl.SSLError:  # ignore: gRPC may accept what Python refuses
        pass
    return None


def refusal_reason(address: str, tls: Tls | None) -> str | None:
    """Return why the listener at "host:port" and this end cannot connect; None if unknown or nothing listens."""
    if address.startswith(UNIX):
        return None
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with suppress(OSError), socket.create_connection((host, int(port)), _PROBE_TIMEOUT_S) as link:
        return _tls_failure(link, host, tls)
    return None


def _tls_failure(link: socket.socket, host: str, tls: Tls | None) -> str | None:
    context = _unverified_context() if tls is None else _context(tls, ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(link, server_hostname=host) as wrapped:
            if tls is None:
                return "it wants TLS and this stage speaks plaintext: set transport.tls at all stages, or at none"
            if not wrapped.recv(1):
                return "it does not accept this stage's certificate: all stages need one of the same authority"
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _WRONG_NAME:
            return f"its certificate is not for the name {host}: make one that names it (subjectAltName)"
        return f"its certificate {_CAUSES.get(error.verify_code, f'is not valid: {error.verify_message}')}"
    except ssl.SSLError as error:
        if error.reason in _NOT_TLS and tls is not None:
            return "it speaks plaintext and this stage wants TLS: set transport.tls at all stages, or at none"
        if error.reason and "ALERT" in error.reason:
            return f"it does not accept this stage's certificate: {error.reason.lower().replace('_', ' ')}"
    return None


def _unverified_context() -> ssl.SSLContext:
    """Return a context that only tests whether the peer speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _context(tls: Tls, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Build a TLS context. Raises ssl.SSLError for unreadable files and for a key that does not match."""
    context = ssl.SSLContext(protocol)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    context.load_verify_locations(cadata=tls.ca.decode("ascii", "replace"))
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.TemporaryDirectory(prefix="dni-") as name:  # Python reads only files; the folder has mode 0700
        cert, key = Path(name, "cert"), Path(name, "key")
        cert.write_bytes(tls.cert)
        key.write_bytes(tls.key)
        context.load_cert_chain(cert, key, password=lambda: "")  # otherwise OpenSSL prompts for it
    return context


def _handshake_in_memory(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Run a TLS handshake between two in-memory ends."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(_HANDSHAKE_ROUNDS):
        for end in tuple(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
