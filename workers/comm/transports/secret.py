"""The secret of a run: with it, two stages prove to each other that they belong to the same run.

A handshake carries a proof: HMAC-SHA256, under the secret, of its other fields. The proof of an answer also covers the
number that the connecting stage has drawn for the link. The secret itself is never sent, and a recorded handshake is of
no use in another run, for another link or for a later connection.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, replace

from dni.errors import ConfigError, HandshakeRefused
from workers.comm.frame import Handshake

#: Environment variable with the secret.
VARIABLE = "DNI_RUN_SECRET"

_SHORTEST = 16  # characters; the proofs of a shorter one could be tried out
_BYTES = 32  # of a drawn secret


def secret_of_run(starts_all: bool) -> bytes:
    """Return the secret in the environment; if there is none, draw one if this process starts all stages.

    b"": none. Raises ConfigError for a secret that is too short.
    """
    given = os.environ.get(VARIABLE, "")
    if given and len(given) < _SHORTEST:
        raise ConfigError(f"{VARIABLE} has {len(given)} characters: give it {_SHORTEST} or more, drawn at random")
    return (given or (secrets.token_hex(_BYTES) if starts_all else "")).encode()


def take_secret() -> bytes:
    """Return the secret in the environment, and remove it there: processes that this one starts need none."""
    return os.environ.pop(VARIABLE, "").encode()


def prove(handshake: Handshake, secret: bytes, answers: int = 0) -> Handshake:
    """Return the handshake with its proof; without a secret, as it is.

    `answers`: `link` of the handshake that this one answers; 0: it is the first.
    """
    return replace(handshake, proof=_proof(handshake, secret, answers)) if secret else handshake


def check_proof(handshake: Handshake, secret: bytes, answers: int = 0) -> None:
    """Raise HandshakeRefused unless the sender has the same secret, or neither side has one."""
    expected = _proof(handshake, secret, answers) if secret else b""
    if not hmac.compare_digest(handshake.proof, expected):
        raise HandshakeRefused(
            f"handshake refused: the peer does not have the secret of this run: set {VARIABLE} to the same at all "
            "stages, or at none"
        )


def _proof(handshake: Handshake, secret: bytes, answers: int) -> bytes:
    fields = asdict(replace(handshake, proof=b""))
    del fields["proof"]
    return hmac.new(secret, json.dumps([answers, fields]).encode(), hashlib.sha256).digest()
