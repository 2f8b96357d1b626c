"""What every transport promises: its settings, its ends, and where a stage waits for the one before it."""

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

#: `Transport.bind` that leaves it to the transport where stages listen.
AUTO = "auto"


class ChannelEnd(ABC):
    """One end of an ordered, duplex pipe of frames between two neighbouring stages.

    Frames arrive in the order sent, each once. One thread at a time sends and one receives; they may differ.
    An end knows nothing of credit: `workers.comm.edge` builds that on top.
    """

    @abstractmethod
    def send(self, frame: Frame) -> None:
        """Queue a frame and return at once; its tensors are encoded or cloned and stay the caller's.

        Raises WorkerLost if the link is down, FlowControlError if too many frames wait, SizeMismatch for a
        frame larger than the link carries and ValueError after `close`.
        """

    @abstractmethod
    def receive(self, timeout: float | None) -> Frame:
        """The next frame, waited for at most `timeout` seconds (None: as long as the link is up).

        The frame's tensors belong to the caller. Raises PeerTimeout after `timeout`, the WireError of a
        malformed frame in its place, and WorkerLost once the link is down and all before that was taken.
        """

    @abstractmethod
    def poll(self) -> Frame | None:
        """As `receive`, without waiting: None if nothing is due yet."""

    @abstractmethod
    def pending(self) -> int:
        """Frames that were received and not yet taken, due or not."""

    def tell(self, whom: Callable[[], Blame | None]) -> None:  # noqa: B027  # most transports cannot
        """Have the other side told every so often whom this stage waits for, if the transport can."""

    def blamed(self) -> Blame | None:
        """Who holds up the stage at the other end, which may be that stage itself; None: not known."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Deliver what was sent, then end the link: the peer's `receive` raises WorkerLost. Idempotent."""


class Listener(Protocol):
    """Where a stage waits for the stage before it."""

    address: str  #: what to connect to

    def accept(self, timeout: float) -> ChannelEnd:
        """The end of the link to the stage before, once that has connected and agreed.

        Raises PeerTimeout after `timeout` seconds and HandshakeRefused when a stage came and was refused.
        """

    def close(self) -> None:
        """Close every accepted end (which delivers what it sent) and stop listening. Idempotent."""


@dataclass(frozen=True)
class LinkContext:
    """The stage that opens one end of a link."""

    handshake: Handshake  #: what the stage says of itself; the other end must agree (`workers.comm.frame.agree`)
    limit: int  #: most frames that may wait each way
    device: torch.device  #: of the stage
    sockets: Path | None = None  #: a folder that only this user may enter, for sockets that are files; None: none


@dataclass(frozen=True)
class Edge:
    """Both ends of the link between two stages of one process."""

    downstream: ChannelEnd  #: held by stage k
    upstream: ChannelEnd  #: held by stage k+1
    listener: Listener | None = None

    def close(self) -> None:
        """Deliver what was sent, then end the link."""
        for end in (self.downstream, self.upstream, self.listener):
            if end is not None:
                end.close()


@dataclass
class Transport(Named, ABC):
    """Base class of what joins neighbouring stages.

    A transport of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `transport`, with those below. `listen` and `connect` are all that it must have.
    """

    delay_ms: float = zero_or_more(0.0)  # [milliseconds] emulated one-way link delay
    timeout_s: float = above_zero(60.0)  # [seconds] a neighbour silent for longer than this is lost
    bind: str = AUTO  # where a stage listens: HOST:PORT, port 0 for any free one; auto: 127.0.0.1:0, or, with grpc and
    # without tls, a unix socket in a folder of this user alone; on several machines, all interfaces
    peers: list[str] = field(default_factory=list)  # launch=external: HOST:PORT of each stage; empty: by MASTER_ADDR
    insecure: bool = False  # plaintext may leave this machine: everyone on that network may read and change the run

    #: Stages must be threads of one process, and with `launch=auto` they are.
    within_process: ClassVar[bool] = False

    #: Links can be encrypted, so that messages may recommend it.
    encrypts: ClassVar[bool] = False

    @abstractmethod
    def listen(self, bind: str, context: LinkContext) -> Listener:
        """Wait at an address for the stage before. Raises ConfigError if it is taken or impossible."""

    @abstractmethod
    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        """The end of a link to the stage after, which listens at `address`, or soon will.

        Raises PeerTimeout if it does not answer within `timeout_s`, HandshakeRefused if the two disagree.
        """

    def edge(self, before: LinkContext, after: LinkContext) -> Edge:
        """Both ends of a link between two threads of this process."""
        listener = self.listen(self.on_this_machine(after), after)
        downstream = self.connect(listener.address, before)
        return Edge(downstream, listener.accept(self.timeout_s), listener)

    def on_this_machine(self, context: LinkContext) -> str:
        """Where a stage listens whose neighbour is on the same machine."""
        return "127.0.0.1:0" if self.bind == AUTO else self.bind

    @property
    def private(self) -> bool:
        """Whether links may leave this machine: nobody else can read them, or the user says that it does not matter."""
        return self.insecure

    @property
    def delay_s(self) -> float:
        """The emulated one-way delay in seconds."""
        return self.delay_ms / 1000

    def check(self, run: RunContext) -> None:  # most have no rules
        """Raise ConfigError for settings of the run that do not go with this transport."""

    def check_machine(self, devices: Sequence[str], first: int = 0) -> None:
        """Raise ConfigError for what this machine lacks: a file, or a GPU; `devices`: of the stages from `first` on."""
