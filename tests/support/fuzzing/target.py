"""What received bytes go through: the decoder, the handshake and both ends of an edge; only named errors come out."""

from __future__ import annotations

import struct
from contextlib import suppress
from zlib import crc32

import torch
from torch import Tensor

from dni.errors import WireError
from tests.support.edges import SCALAR, TEXT, evaluated, probe, step
from tests.support.transports import CLIENT, SERVER
from workers.comm.codec import decode, encode, new_tensor
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind, agree
from workers.comm.header import Spec, write_field
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.secret import check_proof, prove
from workers.comm.upstream import Upstream

LIMIT = 1 << 16  #: bytes of a frame

_SECRET = b"a secret of sixteen bytes or more"
_LENGTH_AT = 6  # of the header's length, after a checksum and two tags


class _OneFrame(ChannelEnd):
    """An end that has received one frame."""

    def __init__(self, frame: Frame) -> None:
        self._frames = [frame]

    def send(self, frame: Frame) -> None: ...

    def receive(self, timeout: float | None) -> Frame:
        return self._frames.pop()

    def poll(self) -> Frame | None:
        return self._frames.pop() if self._frames else None

    def pending(self) -> int:
        return len(self._frames)

    def close(self) -> None: ...


def recorded() -> list[bytes]:
    """Return a valid frame of every kind."""
    gradient = {"gradient": torch.ones(3, 2, 5)}
    frames = [
        Frame(Kind.HANDSHAKE, handshake=CLIENT),
        Frame(Kind.HANDSHAKE, handshake=prove(CLIENT, _SECRET)),
        Frame(Kind.STEP, 1, 1, 0, 0, step()),
        Frame(Kind.EVALUATE, 1, 1, 0, 0, evaluated()),
        Frame(Kind.PROBE, 1, 1, 0, 0, probe()),
        Frame(Kind.CHECKPOINT, 1, 1),
        Frame(Kind.END, 1, 1),
        Frame(Kind.CLOSE),
        Frame(Kind.GRADIENT, 0, 1, 1, 1, gradient),
        Frame(Kind.GRADIENT, 0, 1, 0, 1, {**gradient, "late": SCALAR}),
        Frame(Kind.DONE, 0, 1, 1, 1, {"losses": torch.tensor([[0.0, 1.5, 6.0]], dtype=torch.float64)}),
    ]
    return [encode(frame, checksum=number % 2 == 1) for number, frame in enumerate(frames)]


def sealed(data: bytes) -> bytes:
    """Put the right length and checksum before a header, so that changes in it reach what reads it."""
    return joined(*parts(data))


def joined(header: bytes, payload: bytes) -> bytes:
    """Return a frame of a header and what follows it."""
    return struct.pack("<BI", 0x0D, crc32(header)) + write_field(0x12, len(header)) + header + payload


def consume(data: bytes) -> None:
    """Let bytes take every way that received ones may take. Raises nothing for any bytes, if the code is right."""
    room = [len(data)]

    def allocate(spec: Spec) -> Tensor:
        room[0] -= spec.nbytes
        assert room[0] >= 0, f"{len(data)} bytes make tensors of more bytes"
        return new_tensor(spec)

    try:
        frame = decode(data, limit=LIMIT, allocate=allocate)
    except WireError:
        return
    _shake_hands(frame)
    _receive(frame)


def _shake_hands(frame: Frame) -> None:
    if frame.handshake is None:
        return
    for secret in (b"", _SECRET):
        with suppress(WireError):
            check_proof(frame.handshake, secret)
            agree(client=frame.handshake, server=SERVER)


def _receive(frame: Frame) -> None:
    with suppress(WireError):
        Upstream(_OneFrame(frame), stage=1, clock=WaitTime(), timeout_s=1, contents=TEXT).poll()
    down = Downstream(_OneFrame(frame), stage=0, window=2, clock=WaitTime(), timeout_s=1)
    down.send(Kind.STEP, 0, step())
    with suppress(WireError):
        for target in down.targets():
            assert target.step >= 0


def parts(data: bytes) -> tuple[bytes, bytes]:
    """Split bytes into what may be a header, whose length takes one or two bytes, and the rest."""
    low, high, *_ = (*data[_LENGTH_AT : _LENGTH_AT + 2], 0, 0)
    two = low >= 0x80
    start = _LENGTH_AT + 1 + two
    end = start + (low & 0x7F) + 128 * two * high
    return data[start:end], data[end:]
