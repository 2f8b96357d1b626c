"""A run, as described to each of its workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from dni.data.base import Data
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.config.convert import fingerprint
from workers.config.settings import Config
from workers.runtime.recorder import Record


@dataclass(frozen=True)
class Job:
    """A run: settings, folder, and the sink for records. `stop` asks the first stage to end the run early."""

    config: Config
    run_dir: Path
    sink: Callable[[Record], None]
    stop: Event
    data: Data | None = None  # opened data; None: the worker opens it
    sockets: Path | None = None  # private folder for Unix sockets; None: stages listen at ports
    secret: bytes = field(default=b"", repr=False)  # with which its stages know each other; b"": none

    incarnation: int = 0  # number of earlier processes of this stage, in the same run

    @property
    def start(self) -> int:
        """Steps taken before this process: training begins at the next one."""
        return self.config.resume_step or 0

    def handshake(self, index: int) -> Handshake:
        """Return the handshake that stage `index` sends to its neighbours."""
        return Handshake(
            protocol_version=PROTOCOL_VERSION,
            run_id=self.run_dir.name,
            stage=index,
            stages=self.config.stages,
            fingerprint=fingerprint(self.config),
            incarnation=self.incarnation,
            next_step=self.start + 1,
        )
