"""A run, as every worker of it knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from workers.build.data import Data
from workers.comm.frame import PROTOCOL_VERSION, Handshake
from workers.config.convert import fingerprint
from workers.config.settings import Config
from workers.runtime.recorder import Record


@dataclass(frozen=True)
class Job:
    """A run: its settings, its folder, the step it starts after, and where its records go."""

    config: Config
    run_dir: Path
    sink: Callable[[Record], None]
    stop: Event
    data: Data | None = None  # the first stage opens the data itself if this is not given
    sockets: Path | None = None  # a folder that only this user may enter; None: stages listen at ports

    @property
    def start(self) -> int:
        """Steps that are already done."""
        return self.config.resume_step or 0

    def handshake(self, index: int) -> Handshake:
        """What stage `index` says of itself to its neighbours."""
        return Handshake(
            protocol_version=PROTOCOL_VERSION,
            run_id=self.run_dir.name,
            stage=index,
            stages=self.config.stages,
            fingerprint=fingerprint(self.config),
            incarnation=0,
            next_step=self.start + 1,
        )
