"""Interfaces of transports: settings, channel ends and listeners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from dni.plugin import Named, RunContext
from dni.ranges import above_zero, zero_or_more
from workers.comm.blame import Blame
from workers.comm.frame import Frame, Handshake

#: Value of `Transport.bind` with which the transport chooses the address.
AUTO = "auto"


class ChannelEnd(ABC):
    """One end of an ordered, duplex channel of frames between two neighbouring stages.

    Each frame arrives once, in the order sent. One thread may send while another receives. Credit is not handled here
    but in `workers.comm.edge`.
    """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Queue a frame and return at once. The caller may change its tensors afterwards.

        Raises WorkerLost if the link is down, FlowControlError if too many frames wait to be sent, SizeMismatch for a
        frame that is too large for the link, and ValueError after `close`.
        """

    @abstractmethod
    def receive(self, timeout: float | None) -> Frame:
        """Wait for the next frame, at most `timeout` seconds (None: as long as the link is up).

        The caller owns the frame's tensors. Raises PeerTimeout after `timeout`, a WireError in the place of a malformed
        frame, and WorkerLost when the link is down and all frames received before have been taken.
        """

    @abstractmethod
    def poll(self) -> Frame | None:
        """Return the next frame, or None if none is available yet. Raises as `receive`, without PeerTimeout."""

    @abstractmethod
    def pending(self) -> int:
        """Return the number of received frames not yet taken, including those still delayed."""

    @property
    def reconnects(self) -> int:
        """How often the connection was lost and made anew."""
        return 0

    @property
    def arrived_at(self) -> float | None:
        """Time of `time.monotonic` from which the frame taken last could be taken; None: this end does not know."""
        return None

    def set_blame_source(self, source: Callable[[], Blame | None]) -> None:  # noqa: B027  # most transports do not
        """Report to the peer at intervals which stage this one waits for, as `source` returns it."""

    def blame(self) -> Blame | None:
        """Return the stage that holds up the peer, possibly the peer itself; None if unknown."""
        return None

    def give_up(self) -> None:  # noqa: B027  # most transports replace no links
        """End the link at once, as the peer is gone; call it in any thread. With `Transport.replaces_links`."""

    @abstractmethod
    def close(self) -> None:
        """Deliver the sent frames, then end the link: the peer's `receive` raises WorkerLost. Idempotent."""


class Listener(Protocol):
    """Accepts the connection of the previous stage."""

    address: str  #: the address to connect to

    def accept(self, timeout: float) -> ChannelEnd:
        """Wait for the previous stage to connect and shake hands; return the end of its link.

        Raises PeerTimeout after `timeout` seconds, HandshakeRefused if a stage connected and was refused.
        """

    def close(self) -> None:
        """Close every accepted end (delivering its sent frames) and stop listening. Idempotent."""


@dataclass(frozen=True)
class LinkContext:
    """The stage that opens one end of a link."""

    handshake: Handshake  #: the stage's handshake; the peer must agree (`workers.comm.frame.agree`)
    limit: int  #: frames that may wait in each direction
    device: torch.device  #: device of the stage
    sockets: Path | None = None  #: folder for unix sockets that only this user may enter; None: no unix sockets
    secret: bytes = field(default=b"", repr=False)  #: of the run (`workers.comm.transports.secret`); b"": none


@dataclass(frozen=True)
class Edge:
    """Both ends of the link between two stages of one process."""

    downstream: ChannelEnd  #: held by stage k
    upstream: ChannelEnd  #: held by stage k+1
    listener: Listener | None = None

    def close(self) -> None:
        """Deliver the sent frames, then end the link."""
        for end in (self.downstream, self.upstream, self.listener):
            if end is not None:
                end.close()


@dataclass
class Transport(Named, ABC):
    """Base class of transports, which connect neighbouring stages.

    To add one, write a dataclass that subclasses this and implements `listen` and `connect`, in a module of your own.
    Its fields, with those below, are the settings of the section `transport`.
    """

    delay_ms: float = zero_or_more(0.0)  # [milliseconds] emulated one-way link delay
    timeout_s: float = above_zero(60.0)  # [seconds] longest wait for a neighbour before the run ends
    bind: str = AUTO  # address a stage listens at: HOST:PORT, port 0 for any free port; auto: on one machine a private
    # unix socket (grpc without tls) or 127.0.0.1:0, on several machines all interfaces
    peers: list[str] = field(default_factory=list)  # launch=external: HOST:PORT of each stage; empty: use MASTER_ADDR
    insecure: bool = False  # let plaintext leave this machine: everyone on that network may read and change the run

    #: Stages must be threads of one process; `launch=auto` then starts threads.
    within_process: ClassVar[bool] = False

    #: Links can be encrypted, so error messages may recommend it.
    encrypts: ClassVar[bool] = False

    #: A link can be given up (`ChannelEnd.give_up`) and replaced: its listener accepts another one.
    replaces_links: ClassVar[bool] = False

    @abstractmethod
    def listen(self, bind: str, context: LinkContext) -> Listener:
        """Listen for the previous stage. Raises ConfigError if the address is taken or impossible."""

    @abstractmethod
    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        """Connect to the next stage, which listens at `address` or will soon; return this end.

        Raises PeerTimeout if it does not answer within `timeout_s`, HandshakeRefused if the two disagree.
        """

    def edge(self, previous: LinkContext, next_stage: LinkContext) -> Edge:
        """Open a link between two threads of this process and return both ends."""
        listener = self.listen(self.on_this_machine(next_stage), next_stage)
        downstream = self.connect(listener.address, previous)
        return Edge(downstream, listener.accept(self.timeout_s), listener)

    def on_this_machine(self, context: LinkContext) -> str:
        """Return the address to listen at if the neighbour is on the same machine."""
        return "127.0.0.1:0" if self.bind == AUTO else self.bind

    @property
    def any_port(self) -> bool:
        """Whether a stage that is started again can listen at another address than before."""
        return self.bind == AUTO or self.bind.endswith(":0")

    @property
    def private(self) -> bool:
        """Whether links may leave this machine: they are encrypted, or the user accepts plaintext."""
        return self.insecure

    @property
    def delay_s(self) -> float:
        """The emulated one-way delay in seconds."""
        return self.delay_ms / 1000

    def check(self, run: RunContext) -> None:  # most have no rules
        """Raise ConfigError for settings of the run that this transport does not support."""

    def check_machine(self, devices: Sequence[str], first: int = 0) -> None:
        """Raise ConfigError if this machine lacks a file or a GPU. `devices` belong to the stages from `first` on."""
