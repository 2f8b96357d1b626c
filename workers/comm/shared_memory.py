"""Payloads in memory that both ends of a link share: on one machine big tensors need not go through a socket.

Each end makes a ring for what it sends and says in its handshake where it is; a header then says at which position the
payload lies, and headers that come back say through which position the reader has copied everything out. Positions
count bytes from the start of the run and wrap around. Nobody ever waits: a payload for which there is no room travels
in its frame. The memory has no name in any folder, so it is gone with the two processes, however they end.
"""

from __future__ import annotations

import os
from contextlib import suppress
from mmap import mmap
from typing import Any, NamedTuple

import numpy as np

from dni.errors import CorruptHeader
from workers import stage_pb2

try:
    import fcntl
    from mmap import PROT_READ
    from os import MFD_ALLOW_SEALING, MFD_CLOEXEC, memfd_create

    SUPPORTED = True
except ImportError:  # not Linux: everything travels in frames
    SUPPORTED = False

#: Bytes of a ring unless told otherwise; memory is taken only where it was written to.
RING_BYTES = 128 * 2**20
#: Smaller payloads travel in their frames.
SMALLEST = 16 * 2**10


class Offer(NamedTuple):
    """Where another process of the same user finds a ring; fields are those of message `Ring`."""

    process: int  #: its maker's id
    descriptor: int  #: number of the open file there
    inode: int  #: of that file, so that another one of that number is not taken for it
    nbytes: int


class Rings:
    """Both rings of one end of a link: one to write, one to read. One thread may write while another reads."""

    def __init__(self, nbytes: int, largest: int) -> None:
        """`nbytes` of the ring for what is sent, `largest` payload of a frame."""
        self._nbytes, self._largest = nbytes, largest
        self._mine: _Memory | None = None
        self._theirs: _Memory | None = None
        self._written = 0  # through which position payloads were placed
        self._freed: int | None = None  # through which the peer has read them; None: it has not opened the ring
        self.read_through = 0  #: through which position payloads of the peer's ring were copied out

    def offer(self) -> Offer | None:
        """Make the ring for what is sent; None if there is to be none or this system has no more memory to share."""
        if SUPPORTED and self._mine is None:
            with suppress(OSError):
                self._mine = _Memory.make(self._nbytes)
        return None if self._mine is None else self._mine.offer

    def open(self, offer: Offer) -> None:
        """Open the peer's ring; where that is impossible, payloads go on travelling in their frames."""
        if SUPPORTED and self._theirs is None:
            with suppress(OSError, ValueError):
                self._theirs = _Memory.open(offer)

    @property
    def opened(self) -> bool:
        """Whether the peer's ring can be read."""
        return self._theirs is not None

    def heed(self, header: stage_pb2.Header) -> None:
        """What the peer says of its ring, and of ours. Raises CorruptHeader."""
        if header.HasField("ring"):
            self.open(Offer(header.ring.process, header.ring.descriptor, header.ring.inode, header.ring.nbytes))
        if header.HasField("ring_freed"):
            self.freed(header.ring_freed)

    def freed(self, through: int) -> None:
        """The peer has opened the ring and read all before a position. Raises CorruptHeader if that cannot be."""
        if self._mine is None or through > self._written:
            raise CorruptHeader(f"the ring is read through byte {through}; {self._written} were written")
        self._freed = max(self._freed or 0, through)

    def leave(self, header: stage_pb2.Header, chunks: list[Any], nbytes: int) -> bool:
        """Tell the peer what it must know, and leave a payload in the ring if there is room; whether it was left."""
        if header.HasField("handshake") and (offer := self.offer()) is not None:
            header.ring.CopyFrom(stage_pb2.Ring(**offer._asdict()))
        if self.opened:
            header.ring_freed = self.read_through
        position = self.place(chunks, nbytes)
        if position is not None:
            header.ring_position = position
        return position is not None

    def place(self, chunks: list[Any], nbytes: int) -> int | None:
        """Copy a payload into the ring: its position, or None if it is small or there is no room."""
        mine = self._mine
        if mine is None or self._freed is None or not SMALLEST <= nbytes <= self._largest:
            return None
        position = self._room(mine.nbytes, self._freed, nbytes)
        if position is not None:
            start = position % mine.nbytes
            for chunk in chunks:
                mine.array[start : start + chunk.nbytes] = chunk
                start += chunk.nbytes
            self._written = position + nbytes
        return position

    def view(self, position: int, nbytes: int) -> Any:
        """A payload in the peer's ring, (nbytes,) uint8: copy it out, then set `read_through`.

        Raises CorruptHeader if it does not lie in the ring.
        """
        if self._theirs is None:
            raise CorruptHeader(f"the payload is said to be at byte {position} of a ring, and there is none")
        size, start = self._theirs.nbytes, position % self._theirs.nbytes
        if not self.read_through <= position < self.read_through + 2 * size or start + nbytes > size:
            raise CorruptHeader(
                f"a payload of {nbytes} bytes at byte {position} lies outside the ring, which has {size} bytes and "
                f"was read through byte {self.read_through}"
            )
        return self._theirs.array[start : start + nbytes]

    def close(self) -> None:
        """Let go of both; a ring lasts as long as one end has it."""
        if self._mine is not None:
            os.close(self._mine.offer.descriptor)
        self._mine = self._theirs = self._freed = None

    def _room(self, size: int, freed: int, nbytes: int) -> int | None:
        """The next position with so many bytes in one piece: near the ring's start if it can be, for what was written
        there lately is still in the processor's cache."""
        lap = self._written + -self._written % size
        if freed == self._written and nbytes <= size:  # the ring is empty
            self._freed = freed = lap
        for position in (lap, self._written):
            if position + nbytes <= freed + size and position % size + nbytes <= size:
                return position
        return None


class _Memory(NamedTuple):
    """One ring's bytes in this process."""

    offer: Offer
    array: Any  #: (nbytes,) uint8

    @property
    def nbytes(self) -> int:
        """Size of the ring."""
        return self.offer.nbytes

    @classmethod
    def make(cls, nbytes: int) -> _Memory:
        """New memory, which takes no room before it is written to; `close` what is offered in the end."""
        descriptor = memfd_create("dni-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING)
        try:
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, nbytes)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            offer = Offer(os.getpid(), descriptor, os.fstat(descriptor).st_ino, nbytes)
            return cls(offer, np.frombuffer(mmap(descriptor, nbytes), np.uint8))
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, offer: Offer) -> _Memory:
        """That of another process. Raises OSError or ValueError if it is not what was offered."""
        descriptor = os.open(f"/proc/{offer.process}/fd/{offer.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK  # else a read could be fatal
            if (found.st_ino, found.st_size) != (offer.inode, offer.nbytes) or not sealed:
                raise ValueError(f"{offer} is not there")
            return cls(offer, np.frombuffer(mmap(descriptor, offer.nbytes, prot=PROT_READ), np.uint8))
        finally:
            os.close(descriptor)
