"""Common parts of the transports between processes."""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from dni.errors import FlowControlError, PeerTimeout, SizeMismatch
from dni.ranges import one_or_more
from workers.comm.codec import FRAME_BYTES
from workers.comm.frame import Frame, Handshake
from workers.comm.shared_memory import RING_BYTES
from workers.comm.transports.base import ChannelEnd, LinkContext, Transport
from workers.comm.transports.inbox import Inbox, InboxEnd

CPU = torch.device("cpu")


@dataclass(frozen=True)
class LinkSettings:
    """Settings of one end of a link. Both ends of a link should have the same, except for `device`."""

    limit: int = 64  #: [frames] that may wait in each direction; at least the number in flight on the edge
    max_frame: int = FRAME_BYTES  #: [bytes] of the largest frame sent or received
    delay_s: float = 0.0  #: [seconds] emulated one-way latency, added to received frames
    checksum: bool = False  #: send a checksum of the payload; a received checksum is always verified
    timeout_s: float = 30.0  #: [seconds] longest wait for the peer, to connect and, at `close`, to receive sent frames
    insecure: bool = False  #: allow plaintext beyond the loopback interface
    keepalive_s: float = 10.0  #: [seconds] a peer that answers nothing for this long is lost (gRPC)
    reconnect_s: float = 0.0  #: [seconds] a lost connection is tried again for this long (gRPC); 0: it ends the link
    health: bool = False  #: answer health checks (gRPC)
    ring: int = RING_BYTES  #: [bytes] shared memory per direction for big payloads (gRPC, unix sockets); 0: none
    device: torch.device = CPU  #: device of the stage that holds this end
    secret: bytes = field(default=b"", repr=False)  #: of the run; the peer must prove that it has the same (gRPC)


#: The settings of a link whose caller passes none.
DEFAULT_SETTINGS = LinkSettings()


@dataclass
class ProcessTransport(Transport):
    """Base class of the transports that send frames as bytes, between processes."""

    checksum: bool = False  # send a checksum of tensors, too; headers always have one
    max_frame_mb: int = one_or_more(256)  # [megabytes] largest frame that a stage sends or accepts

    def link_settings(self, context: LinkContext) -> LinkSettings:
        """Return the settings of the end that a stage opens."""
        return LinkSettings(
            limit=context.limit,
            max_frame=self.max_frame_mb << 20,
            delay_s=self.delay_s,
            checksum=self.checksum,
            timeout_s=self.timeout_s,
            insecure=self.insecure,
            device=context.device,
            secret=context.secret,
        )


class LinkEnd(InboxEnd):
    """One end of a link between processes, and the limits on sent frames."""

    def __init__(self, peer: str, settings: LinkSettings, on_take: Callable[[Frame], Frame] | None) -> None:
        super().__init__(Inbox(settings.limit, settings.delay_s, peer, on_take))
        self._settings = settings

    def _check_size(self, frame: Frame, nbytes: int) -> None:
        if nbytes > (limit := self._settings.max_frame):
            raise SizeMismatch(
                f"{self._where(frame)} has {nbytes} bytes, the link carries {limit}: raise transport.max_frame_mb at "
                "both ends"
            )

    def _crowded(self, frame: Frame) -> FlowControlError:
        return FlowControlError(f"{self._where(frame)}: {self._settings.limit} frames already wait to be sent")


class Accepting:
    """Base class of listeners: a queue of accepted ends, and of errors of refused ones."""

    address: str  #: the address to connect to

    def __init__(self, handshake: Handshake, most: int = 0) -> None:
        """`most`: ends that may wait to be accepted; 0: any number."""
        self._handshake = handshake
        self._accepted: queue.Queue[ChannelEnd | Exception] = queue.Queue(most)

    def died(self, error: Exception) -> None:
        """Make `accept` raise the error that ended a thread of this listener."""
        with suppress(queue.Full):
            self._accepted.put_nowait(error)

    def accept(self, timeout: float) -> ChannelEnd:
        """Wait for the previous stage to connect and shake hands; return the end of its link.

        Raises PeerTimeout after `timeout` seconds, HandshakeRefused if a stage connected and was refused.
        """
        stage = self._handshake.stage
        try:
            item = self._accepted.get(timeout=timeout)
        except queue.Empty:
            raise PeerTimeout(
                f"stage {stage}: stage {stage - 1} did not connect to {self.address} within {timeout:g} s; "
                "is it running, and with this address?"
            ) from None
        if isinstance(item, Exception):
            raise item
        return item
