"""Seeded changes of recorded frames, where coverage cannot guide them."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.support.fuzzing.target import consume, joined, parts, recorded, sealed
from workers import stage_pb2

_NUMBERS = (0, 1, 2, 3, 5, -1, 2**31, 2**62, 7, 8, 9, 255, 2**32 - 1, 2**64 - 1)
_NAMES = ("", "value", "labels", "late", "losses", "gradient", "run", "../../etc/passwd", "\0", "\u00e9" * 70)
_ODD = (0, 1, 0x7F, 0x80, 0xFF)  # bytes at which lengths and signs change


def inputs(seed: int) -> Iterator[bytes]:
    """Yield changed frames without end."""
    draw, frames = random.Random(seed), recorded()
    while True:
        changes = draw.choice((1, 1, 2, 5, 20))
        if draw.random() < 0.5:
            yield _with_other_fields(draw, draw.choice(frames), changes)
            continue
        data = bytearray(draw.choice(frames))
        for _ in range(changes):
            _change(draw, data, frames)
        yield sealed(bytes(data)) if draw.random() < 0.7 else bytes(data)


def fuzz(seed: int, seconds: float, most: int | None = None) -> int:
    """Consume changed frames for so long, or so many; return their number. Raises AssertionError with the bytes."""
    until, count = time.monotonic() + seconds, 0
    with _without_log():
        for count, data in enumerate(inputs(seed), 1):
            try:
                consume(data)
            except Exception as error:
                raise AssertionError(
                    f"SEED={seed}, input {count}: {type(error).__name__}: {error}: {data!r}"
                ) from error
            if count == most or time.monotonic() >= until:
                break
    return count


@contextmanager
def _without_log() -> Iterator[None]:
    """A dropped target is logged."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)


def _change(draw: random.Random, data: bytearray, frames: list[bytes]) -> None:
    place = draw.randrange(len(data) + 1)
    match draw.randrange(6):
        case 0:
            data[place : place + 1] = bytes([draw.randrange(256)])
        case 1:
            data[place : place + 1] = bytes([draw.choice(_ODD)])
        case 2:
            del data[place : place + draw.randint(1, 8)]
        case 3:
            data[place:place] = draw.randbytes(draw.randint(1, 8))
        case 4:
            data[place:place] = data[place : place + draw.randint(1, 32)]
        case _:
            other = draw.choice(frames)
            start = draw.randrange(len(other))
            data[place:] = other[start:]


def _with_other_fields(draw: random.Random, data: bytes, changes: int) -> bytes:
    """Return a frame whose header is a message with other values."""
    head, payload = parts(data)
    header = stage_pb2.Header.FromString(head)
    for _ in range(changes):
        _change_field(draw, header)
    return joined(header.SerializeToString(), payload)


def _change_field(draw: random.Random, header: stage_pb2.Header) -> None:
    about = draw.choice([header, header, *header.tensors, *header.tensors, header.handshake])
    if about is header.handshake and not header.HasField("handshake") and draw.random() < 0.9:
        return
    name = draw.choice([field.name for field in about.DESCRIPTOR.fields])
    value = getattr(about, name)
    if isinstance(value, int):
        with suppress(ValueError):  # out of the field's range
            setattr(about, name, draw.choice((value + 1, value - 1, *_NUMBERS)))
    elif isinstance(value, str):
        setattr(about, name, draw.choice(_NAMES))
    elif isinstance(value, bytes):
        setattr(about, name, draw.randbytes(draw.choice((0, 31, 32))))
    elif name == "shape":
        value[draw.randint(0, len(value)) :] = draw.choices(_NUMBERS[:8], k=draw.choice((0, 1, 2, 9)))
    elif name == "tensors" and len(value):
        draw.choice((lambda: value.add(), lambda: value.pop(), lambda: value.append(value[0])))()
