"""The settings of gRPC links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from dni.errors import ConfigError
from dni.plugin import RunContext
from dni.ranges import above_zero, zero_or_more
from workers.comm.address import UNIX
from workers.comm.transports.base import AUTO, ChannelEnd, LinkContext, Listener
from workers.comm.transports.process_link import LinkSettings, ProcessTransport

if TYPE_CHECKING:
    from workers.comm.transports.grpc.tls import Tls


@dataclass
class TlsFiles:
    """PEM files with which both ends of a link authenticate."""

    cert: str | None = None  # file with this stage's certificate, signed by the authority in `ca`; it must name the
    # host at which the stage is reached
    key: str | None = None  # file with the certificate's private key
    ca: str | None = None  # file with the certificate of the authority


@dataclass
class Grpc(ProcessTransport):
    """One long-lived bidirectional gRPC stream per edge, over TCP or unix sockets; encrypted with `tls`.

    gRPC is imported when the first link is made.
    """

    tls: TlsFiles = field(default_factory=TlsFiles)  # PEM files with which both ends of a link authenticate; null:
    # plaintext
    ring_mb: int = zero_or_more(128)  # [megabytes] shared memory per direction for big tensors between two stages on
    # one machine, allocated on demand (Linux, with unix sockets); 0: none

    keepalive_s: float = above_zero(10.0)  # [seconds] a connection on which the neighbour answers nothing for this
    # long is lost
    reconnect_s: float = zero_or_more(30.0)  # [seconds] a lost connection is made anew, and what is missing sent again,
    # for at most this long; 0: it ends the run

    health: bool = False  # answer the health checks of gRPC (grpc.health.v1): SERVING while the link from the previous
    # stage lasts; everyone who can connect may ask

    name: ClassVar[str] = "grpc"
    encrypts: ClassVar[bool] = True
    replaces_links: ClassVar[bool] = True

    def listen(self, bind: str, context: LinkContext) -> Listener:
        from workers.comm.transports.grpc.link import GrpcListener

        return GrpcListener(
            bind, handshake=context.handshake, settings=self.link_settings(context), tls=self.credentials()
        )

    def connect(self, address: str, context: LinkContext) -> ChannelEnd:
        from workers.comm.transports.grpc.link import grpc_connect

        return grpc_connect(address, context.handshake, self.link_settings(context), tls=self.credentials())

    def link_settings(self, context: LinkContext) -> LinkSettings:
        """Return the settings of the end that a stage opens, with those of gRPC."""
        settings = super().link_settings(context)
        return replace(
            settings,
            ring=self.ring_mb << 20,
            keepalive_s=self.keepalive_s,
            reconnect_s=self.reconnect_s,
            health=self.health,
        )

    def on_this_machine(self, context: LinkContext) -> str:
        """Return the address to listen at: with `bind=auto` and without TLS, a unix socket in the run's folder."""
        if self.bind != AUTO or context.sockets is None or self.tls.cert is not None:
            return super().on_this_machine(context)
        mine = context.handshake  # of a stage that was started again: nobody connects to its old process by mistake
        again = f".{mine.incarnation}" if mine.incarnation else ""
        return f"{UNIX}{context.sockets / f'stage-{mine.stage}{again}'}"

    @property
    def private(self) -> bool:
        return self.insecure or self.tls.cert is not None

    def check(self, run: RunContext) -> None:
        missing = [name for name in ("cert", "key", "ca") if getattr(self.tls, name) is None]
        if 0 < len(missing) < 3:
            raise ConfigError(f"transport.tls needs cert, key and ca: set transport.tls.{missing[0]}, or none of them")

    def check_machine(self, devices: Sequence[str], first: int = 0) -> None:
        """Raise ConfigError for certificates that no peer would accept."""
        self.credentials()

    def credentials(self) -> Tls | None:
        """Read certificate and key; None without TLS.

        Raises ConfigError for files that cannot be read, or that no peer would accept.
        """
        files = self.tls
        if files.cert is None:
            return None
        from workers.comm.transports.grpc.refusal import own_certificate_error
        from workers.comm.transports.grpc.tls import Tls

        tls = Tls.watched(files.cert, str(files.key), str(files.ca))
        reason = own_certificate_error(tls)
        if reason is not None:
            raise ConfigError(f"{reason} (cert={files.cert}, key={files.key}, ca={files.ca})")
        return tls
