"""The proof of a run's secret, against a second implementation, and where the secret comes from."""

import hashlib
import json
from dataclasses import asdict, replace

import pytest

from dni.errors import ConfigError, HandshakeRefused
from tests.support.transports import CLIENT
from workers.comm.transports.secret import VARIABLE, check_proof, prove, secret_of_run, take_secret

SECRET = b"sixteen letters."


def by_hand(message: bytes, secret: bytes) -> bytes:
    """HMAC-SHA256 as RFC 2104 writes it."""
    key = secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def test_a_proof_is_the_hmac_of_all_other_fields_and_of_the_answered_link() -> None:
    fields = {name: value for name, value in asdict(CLIENT).items() if name != "proof"}
    assert prove(CLIENT, SECRET, 7).proof == by_hand(json.dumps([7, fields]).encode(), SECRET)


def test_without_a_secret_there_is_no_proof() -> None:
    assert prove(CLIENT, b"") == CLIENT
    check_proof(CLIENT, b"")


@pytest.mark.parametrize("field", [name for name in asdict(CLIENT) if name not in ("run_id", "fingerprint", "proof")])
def test_a_changed_number_is_refused(field: str) -> None:
    proven = prove(CLIENT, SECRET)
    check_proof(proven, SECRET)
    with pytest.raises(HandshakeRefused, match=f"set {VARIABLE} to the same at all stages"):
        check_proof(replace(proven, **{field: 77}), SECRET)


@pytest.mark.parametrize(
    ("change", "secret", "answers"),
    [
        ({"run_id": "other"}, SECRET, 7), ({"fingerprint": "other"}, SECRET, 7), ({"proof": b""}, SECRET, 7),
        ({}, b"another secret..", 7), ({}, b"", 7), ({}, SECRET, 8),
    ],
)  # fmt: skip
def test_another_run_secret_or_link_is_refused(change: dict[str, str], secret: bytes, answers: int) -> None:
    with pytest.raises(HandshakeRefused):
        check_proof(replace(prove(CLIENT, SECRET, 7), **change), secret, answers)  # type: ignore[arg-type]


def test_a_process_that_starts_all_stages_draws_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    drawn = {secret_of_run(starts_all=True) for _ in range(10)}
    assert len(drawn) == 10
    assert {len(bytes.fromhex(each.decode())) for each in drawn} == {32}
    assert secret_of_run(starts_all=False) == b""


def test_the_environment_gives_the_secret_and_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET.decode())
    assert secret_of_run(starts_all=True) == secret_of_run(starts_all=False) == SECRET
    assert (take_secret(), take_secret()) == (SECRET, b"")


def test_a_short_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "fifteen letters")
    with pytest.raises(ConfigError, match=f"{VARIABLE} has 15 characters: give it 16 or more"):
        secret_of_run(starts_all=True)
