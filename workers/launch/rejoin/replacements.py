"""Which lost stages start again without the others, and how long each was away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workers.config.settings import Config
from workers.launch.rejoin.spare import Spare
from workers.launch.restarts import Restarts

log = logging.getLogger(__name__)


@dataclass
class Loss:
    """A stage that was lost and is on its way back. Times are of the monotonic clock."""

    lost_at: float  #: its process had ended
    noticed_at: float  #: the supervisor knew


class Replacements:
    """Keeps account of the stages that start again while the others go on.

    Args:
        config: settings of the run.
        restarts: how often the run, or one of its stages, may still start again.
        make_spare: starts a process that takes the place of the next stage that is lost.
    """

    def __init__(self, config: Config, restarts: Restarts, make_spare: Callable[[], Spare | None]) -> None:
        self._config, self._restarts, self._make_spare = config, restarts, make_spare
        self._spare: Spare | None = None
        self._going: set[int] = set()  # stages that have handled a frame
        self._away: dict[int, Loss] = {}
        self.incarnations = [0] * config.stages

    def spend(self, index: int, step: int, lost_at: float) -> bool:
        """Count a restart of a stage that was lost after recorded step `step`; return whether it starts again alone.

        That needs neighbours that are at work. A stage that was lost before it was back, or at the same step before,
        ends the run.
        """
        beside = {index - 1, index + 1} & set(range(1, self._config.stages))
        fits = self._config.replaces_stages and index > 0 and beside <= self._going
        if not fits or (index not in self._going and index not in self._away):
            return False
        if self._restarts.spend(step, index) is not None:
            return False
        self._going -= {index}
        self._away[index] = Loss(lost_at, time.monotonic())
        self.incarnations[index] += 1
        return True

    def going(self, index: int, step: int) -> dict[str, Any] | None:
        """Note that a stage has handled its first frame, of that step; return the record of a stage that is back."""
        self._going.add(index)
        others = {*range(1, self._config.stages)}
        if self._spare is None and self._config.replaces_stages and self._restarts.left and others <= self._going:
            try:
                self._spare = self._make_spare()  # now: before, its imports would delay those of the stages
            except OSError as error:
                log.warning("no process waits for a stage to be lost, so that its start takes longer: %s", error)
        loss = self._away.pop(index, None)
        if loss is None:
            return None
        away_s, noticed_s = time.monotonic() - loss.lost_at, loss.noticed_at - loss.lost_at
        log.warning("stage %d is back at step %d, %.1f s after it was lost", index, step, away_s)
        restarts = self.incarnations[index]
        return {
            "kind": "rejoined", "stage": index, "step": step, "restarts": restarts, "away_s": away_s,
            "noticed_s": noticed_s,
        }  # fmt: skip

    def take_spare(self) -> Spare | None:
        """Return the waiting process, if there is one and it still runs."""
        spare, self._spare = self._spare, None
        if spare is not None and spare.returncode is not None:
            spare.close()
            return None
        return spare

    def close(self) -> None:
        """End the waiting process."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None
