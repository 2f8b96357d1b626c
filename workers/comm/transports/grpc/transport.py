"""The settings of gRPC links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from dni.errors import ConfigError
from dni.plugin import RunContext
from dni.ranges import zero_or_more
from workers.comm.address import UNIX
from workers.comm.transports.base import AUTO, ChannelEnd, LinkContext, Listener
from workers.comm.transports.process_link import LinkSettings, ProcessTransport

if TYPE_CHECKING:
    from workers.comm.transports.grpc.tls import Tls


@dataclass
class TlsFiles:
    """Files in PEM format, by which both ends of a link prove who they are."""

    cert: str | None = None  # file with the certificate that is shown to neighbours, who must know its authority; it
    # names the hosts that its stage is reached at
    key: str | None = None  # file with the certificate's key
    ca: str | None = None  # file with the authority's certificate


@dataclass
class Grpc(ProcessTransport):
    """One long-lived bidirectional gRPC stream per edge, over TCP or unix sockets; encrypted with `tls`.

    gRPC is imported when the first link is made.
    """

    tls: TlsFiles = field(default_factory=TlsFiles)  # files in PEM format, by which both ends of a link prove who they
    # are; null: plaintext
    ring_mb: int = zero_or_more(128)  # [megabytes] memory that two stages on one machine share each way for big
    # tensors, taken as it is needed (Linux, over unix sockets); 0: all go through the socket

    name: ClassVar[str] = "grpc"
    encrypts: ClassVar[bool] = True

    def listen(self, bind: str, context: LinkContext) -> Listener:
        from workers.comm.transports.grpc.link import GrpcListener

        return GrpcListener(
            bind, handshake=context.handshake, settings=self.link_settings(context), tls=self.credentials()
        )

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        from workers.comm.transports.grpc.link import grpc_connect

        return grpc_connect(address, context.handshake, self.link_settings(context), tls=self.credentials())

    def link_settings(self, context: LinkContext) -> LinkSettings:
        """Return the settings of the end that a stage opens, with the size of its ring."""
        return replace(super().link_settings(context), ring=self.ring_mb << 20)

    def on_this_machine(self, context: LinkContext) -> str:
        """With `bind=auto` a socket in the folder that the run has for them; files need no certificate."""
        if self.bind != AUTO or context.sockets is None or self.tls.cert is not None:
            return super().on_this_machine(context)
        return f"{UNIX}{context.sockets / f'stage-{context.handshake.stage}'}"

    @property
    def private(self) -> bool:
        return self.insecure or self.tls.cert is not None

    def check(self, run: RunContext) -> None:
        missing = [name for name in ("cert", "key", "ca") if getattr(self.tls, name) is None]
        if 0 < len(missing) < 3:
            raise ConfigError(f"transport.tls needs cert, key and ca: set transport.tls.{missing[0]}, or none of them")

    def check_machine(self, devices: Sequence[str], first: int = 0) -> None:
        """Raise ConfigError for certificates that nobody would accept."""
        self.credentials()

    def credentials(self) -> Tls | None:
        """What both ends of every link prove who they are with.

        Raises ConfigError for files that cannot be read, or that nobody would accept.
        """
        files = self.tls
        if files.cert is None:
            return None
        from workers.comm.transports.grpc.refusal import why_own_refused
        from workers.comm.transports.grpc.tls import Tls

        tls = Tls.read(files.cert, str(files.key), str(files.ca))
        reason = why_own_refused(tls)
        if reason is not None:
            raise ConfigError(f"{reason} (cert={files.cert}, key={files.key}, ca={files.ca})")
        return tls
