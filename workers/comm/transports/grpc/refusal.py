"""Why two ends of a link do not come together. gRPC does not say: the handshake is done again by Python's own TLS."""

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

_LOOK_S = 1.0  # without an answer for so long, the reason is looked for
_PATIENCE_S = 2.0  # for each answer of a listener

_ROUNDS = 4  # of messages of a handshake, each way; it needs two

#: What OpenSSL calls the cause, and what to do about it.
_CAUSES = {
    9: "is not valid yet: wait, or set the clocks right",
    10: "has expired: make a new one",
    **dict.fromkeys((2, 7, 18, 19, 20, 21), "is not signed by the authority in transport.tls.ca: all need the same"),
}
_NAMES = (62, 64)  # of a host, or an address

_ALIEN = ("WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")


def greeting_or_reason(
    greeting: Callable[[float], Handshake], peer: str, address: str, tls: Tls | None, timeout_s: float
) -> Handshake:
    """What `greeting` returns within `timeout_s`. gRPC tries again and again, also where that is of no use: look why.

    Raises PeerTimeout after that time, HandshakeRefused as soon as the reason is known.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return greeting(max(0.0, min(_LOOK_S, left)))
        except PeerTimeout:
            reason = why_refused(address, tls)
            if reason is not None:
                raise HandshakeRefused(f"no link to {peer}: {reason}") from None
            if left <= _LOOK_S:
                raise


def why_own_refused(tls: Tls) -> str | None:
    """What is wrong with a certificate by itself: any other end with the same authority would refuse it."""
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
        _shake_hands(client, server)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _CAUSES:
            return f"the certificate in transport.tls.cert {_CAUSES[error.verify_code]}"
    except ssl.SSLError:  # of no concern: what gRPC allows may be more than what Python does
        pass
    return None


def why_refused(address: str, tls: Tls | None) -> str | None:
    """What keeps the listener at "host:port" and this end apart; None: nothing known, or nobody listens there."""
    if address.startswith(UNIX):
        return None
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with suppress(OSError), socket.create_connection((host, int(port)), _PATIENCE_S) as link:
        return _why_apart(link, host, tls)
    return None


def _why_apart(link: socket.socket, host: str, tls: Tls | None) -> str | None:
    context = _trusting() if tls is None else _context(tls, ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(link, server_hostname=host) as wrapped:
            if tls is None:
                return "it wants TLS and this stage speaks plaintext: set transport.tls at all stages, or at none"
            if not wrapped.recv(1):
                return "it does not accept this stage's certificate: all stages need one of the same authority"
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NAMES:
            return f"its certificate is not for the name {host}: make one that names it (subjectAltName)"
        return f"its certificate {_CAUSES.get(error.verify_code, f'is not valid: {error.verify_message}')}"
    except ssl.SSLError as error:
        if error.reason in _ALIEN and tls is not None:
            return "it speaks plaintext and this stage wants TLS: set transport.tls at all stages, or at none"
        if error.reason and "ALERT" in error.reason:
            return f"it does not accept this stage's certificate: {error.reason.lower().replace('_', ' ')}"
    return None


def _trusting() -> ssl.SSLContext:
    """Of an end that only wants to know whether the other side speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _context(tls: Tls, protocol: ssl._SSLMethod) -> ssl.SSLContext:
    """Raises ssl.SSLError for what cannot be read, and for a key that does not match."""
    context = ssl.SSLContext(protocol)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as gRPC does
    context.load_verify_locations(cadata=tls.ca.decode("ascii", "replace"))
    context.verify_mode = ssl.CERT_REQUIRED
    with tempfile.TemporaryDirectory(prefix="dni-") as name:  # Python reads files alone; the folder has mode 0700
        cert, key = Path(name, "cert"), Path(name, "key")
        cert.write_bytes(tls.cert)
        key.write_bytes(tls.key)
        context.load_cert_chain(cert, key, password=lambda: "")  # without it, OpenSSL asks at the terminal
    return context


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Between two ends in memory."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)]
    for _ in range(_ROUNDS):
        for end in tuple(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
