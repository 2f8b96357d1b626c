"""Shared memory for big payloads: on one machine they need not pass through a socket.

Each end makes a ring buffer for its payloads and describes it in its handshake. Each header then has the position of
its payload in the ring. Headers in the other direction have the position up to which the reader has copied payloads
out. Positions count bytes from the start of the run; the offset in the ring is the position modulo its size. No end
waits: a payload that does not fit travels in its frame. The memory is anonymous, so nothing of it is left when both
processes have ended.
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
except ImportError:  # not Linux: all payloads travel in frames
    SUPPORTED = False

#: Default size of a ring in bytes; the system allocates pages only when they are written to.
RING_BYTES = 128 * 2**20
#: Smallest payload in bytes that uses the ring.
MIN_PAYLOAD_BYTES = 16 * 2**10


class Offer(NamedTuple):
    """Location of a ring for another process of the same user; the fields of message `Ring`."""

    process: int  #: id of the process that made the ring
    descriptor: int  #: its file descriptor in that process
    inode: int  #: inode of the file, to detect a reused descriptor
    nbytes: int


class Rings:
    """The two rings of one end of a link: its own, and the peer's. One thread may write while another reads."""

    def __init__(self, nbytes: int, largest: int) -> None:
        """`nbytes`: size of the own ring; `largest`: biggest payload of a frame, in bytes."""
        self._nbytes, self._largest = nbytes, largest
        self._mine: _Ring | None = None
        self._theirs: _Ring | None = None
        self._written = 0  # position up to which payloads were written
        self._freed: int | None = None  # position up to which the peer has read; None: it has not opened the ring
        self.read_through = 0  #: position up to which the peer's ring was copied out

    def offer(self) -> Offer | None:
        """Make the own ring; return None if that is impossible."""
        if SUPPORTED and self._mine is None:
            with suppress(OSError):
                self._mine = _Ring.make(self._nbytes)
        return None if self._mine is None else self._mine.offer

    def open(self, offer: Offer) -> None:
        """Open the peer's ring; if that is impossible, payloads travel in their frames."""
        if SUPPORTED and self._theirs is None:
            with suppress(OSError, ValueError):
                self._theirs = _Ring.open(offer)

    @property
    def opened(self) -> bool:
        """Whether this end has opened the peer's ring."""
        return self._theirs is not None

    def apply(self, header: stage_pb2.Header) -> None:
        """Apply the ring fields of a received header. Raises CorruptHeader."""
        if header.HasField("ring"):
            self.open(Offer(header.ring.process, header.ring.descriptor, header.ring.inode, header.ring.nbytes))
        if header.HasField("ring_freed"):
            self.mark_freed(header.ring_freed)

    def mark_freed(self, through: int) -> None:
        """Note that the peer has read its payloads up to a position. Raises CorruptHeader if that is impossible."""
        if self._mine is None or through > self._written:
            raise CorruptHeader(f"the ring is read through byte {through}; {self._written} were written")
        self._freed = max(self._freed or 0, through)

    def attach(self, header: stage_pb2.Header, chunks: list[Any], nbytes: int) -> bool:
        """Set the ring fields of a header and write the payload to the ring. Return False if it does not fit."""
        if header.HasField("handshake") and (offer := self.offer()) is not None:
            header.ring.CopyFrom(stage_pb2.Ring(**offer._asdict()))
        if self.opened:
            header.ring_freed = self.read_through
        position = self._write(chunks, nbytes)
        if position is not None:
            header.ring_position = position
        return position is not None

    def _write(self, chunks: list[Any], nbytes: int) -> int | None:
        """Copy a payload into the ring and return its position; None if it is small or does not fit."""
        mine = self._mine
        if mine is None or self._freed is None or not MIN_PAYLOAD_BYTES <= nbytes <= self._largest:
            return None
        position = self._find_position(mine.nbytes, self._freed, nbytes)
        if position is not None:
            start = position % mine.nbytes
            for chunk in chunks:
                mine.array[start : start + chunk.nbytes] = chunk
                start += chunk.nbytes
            self._written = position + nbytes
        return position

    def view(self, position: int, nbytes: int) -> Any:
        """Return a view of a payload in the peer's ring, (nbytes,) uint8. Copy it, then set `read_through`.

        Raises CorruptHeader if the payload lies outside the ring.
        """
        if self._theirs is None:
            raise CorruptHeader(f"the payload should be at byte {position} of a ring, but there is none")
        size, start = self._theirs.nbytes, position % self._theirs.nbytes
        if not self.read_through <= position < self.read_through + 2 * size or start + nbytes > size:
            raise CorruptHeader(
                f"a payload of {nbytes} bytes at byte {position} lies outside the ring, which has {size} bytes and "
                f"was read through byte {self.read_through}"
            )
        return self._theirs.array[start : start + nbytes]

    def close(self) -> None:
        """Release both rings; a ring exists until both ends have released it."""
        if self._mine is not None:
            os.close(self._mine.offer.descriptor)
        self._mine = self._theirs = self._freed = None

    def _find_position(self, size: int, freed: int, nbytes: int) -> int | None:
        """Return the next position with `nbytes` contiguous bytes; None if there is none.

        Prefers the start of the ring, which is likelier to be in the processor's cache.
        """
        next_start = self._written + -self._written % size  # of the ring
        if freed == self._written and nbytes <= size:  # the ring is empty
            self._freed = freed = next_start
        for position in (next_start, self._written):
            if position + nbytes <= freed + size and position % size + nbytes <= size:
                return position
        return None


class _Ring(NamedTuple):
    """One ring, mapped into this process."""

    offer: Offer
    array: Any  #: (nbytes,) uint8

    @property
    def nbytes(self) -> int:
        """Size of the ring."""
        return self.offer.nbytes

    @classmethod
    def make(cls, nbytes: int) -> _Ring:
        """Make a ring. The caller must close the descriptor of its offer."""
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
    def open(cls, offer: Offer) -> _Ring:
        """Map the ring of another process, read-only. Raises OSError or ValueError if it does not match the offer."""
        descriptor = os.open(f"/proc/{offer.process}/fd/{offer.descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            sealed = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK  # shrinking would crash us
            if (found.st_ino, found.st_size) != (offer.inode, offer.nbytes) or not sealed:
                raise ValueError(f"no ring matches {offer}")
            return cls(offer, np.frombuffer(mmap(descriptor, offer.nbytes, prot=PROT_READ), np.uint8))
        finally:
            os.close(descriptor)
