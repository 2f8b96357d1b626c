"""The figures of one stage: gathered every step, reported every so often."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from dni.decoupled import DecoupledInterface
from dni.interface import Interface
from dni.metrics import FitMeter, bits
from dni.types import IGNORED
from workers.downstream import Downstream
from workers.edge import Blocked
from workers.feed import Feed
from workers.frame import Kind
from workers.unlocked import Unlocked
from workers.upstream import Upstream

Record = dict[str, Any]


class Journal:
    """Sends records to a sink: `train` every `every` steps, `valid` per pass (`own` of a task of the
    stage's own), `probe`, `checkpoint`, and one `end`.

    Busy is 1 - time blocked on queues or credit / time since the first frame. `train_s` is the time that training steps
    took or were waited for; validation, probes and checkpoints are not in it.
    """

    def __init__(
        self,
        sink: Callable[[Record], None],
        index: int,
        depth: Interface,
        time_cut: Interface,
        upstream: Upstream | Feed | Unlocked,
        downstream: Downstream | None,
        clock: Blocked,
        *,
        every: int,
    ) -> None:
        self.sink, self.index, self.every = sink, index, every
        self.depth, self.time_cut, self.clock = depth, time_cut, clock
        self.upstream, self.downstream = upstream, downstream
        self.steps = self.characters = 0
        self.train_s = 0.0
        self._started: float | None = None
        self._last_record = self._last_event = 0.0
        self._recorded_steps = 0
        self._nats, self._labels = 0.0, 0
        self._train_loss: float | None = None
        self._valid_sum, self._valid_right, self._valid_count, self._valid_step = 0.0, 0, 0, 0
        self._own: dict[str, float] = {}
        self._probed: dict[str, FitMeter] = {}

    def received(self, kind: Kind) -> None:
        """A frame is here; with the first one the clocks start."""
        if self._started is None:
            self._started = self._last_event = self._last_record = time.monotonic()
            self.clock.seconds = 0.0
        if kind is not Kind.EVALUATE:
            self._close_validation()

    def handled(self, kind: Kind) -> None:
        """Time since the last frame goes into `train_s` if this one was a training step."""
        now = time.monotonic()
        if kind is Kind.STEP:
            self.train_s += now - self._last_event
        self._last_event = now

    def step(self, step: int, characters: int) -> None:
        """One training step is done."""
        self.steps += 1
        self.characters += characters
        if self.depth.measured is not None:
            self._nats += self.depth.measured[0]
            self._labels += self.depth.measured[1]
        if step % self.every == 0:
            self._record_training(step)

    def validation(self, step: int, loss: float, right: int, labels: Tensor) -> None:
        """Add one validation window's summed loss in nats and the number of labels hit."""
        self._valid_sum += loss
        self._valid_right += right
        self._valid_count += int((labels != IGNORED).sum())
        self._valid_step = step

    def probe(self, step: int, figures: Mapping[str, float | None]) -> None:
        """A probe was measured; with its figures goes the mean predictor loss of each cut since the last one."""
        losses = {f"{name}_loss": self._loss_since(name) for name in ("time", "depth")}
        self._send("probe", step, **figures, **losses)

    def saved(self, step: int) -> None:
        """A checkpoint of this stage is on disk."""
        self._send("checkpoint", step)

    def end(self, step: int) -> None:
        """The run is over for this stage."""
        depth, time_cut = self.depth.means(), self.time_cut.means()
        dropped = dict(self.downstream.dropped) if self.downstream else {}
        self._send(
            "end", step, busy=self.busy, train_s=self.train_s, characters=self.characters,
            steps_per_s=self.steps / self.train_s if self.train_s else 0.0,
            staleness_mean=depth.get("staleness"), predictor_cosine=depth.get("cosine"),
            time_cosine=time_cut.get("cosine"), train_loss=self._train_loss, peak_rss_mb=peak_rss_mb(),
            **self.upstream.figures(), **({"own": self._own} if self._own else {}),
            **({"dropped_targets": dropped} if dropped else {}),
        )  # fmt: skip

    @property
    def wall_s(self) -> float:
        """Seconds since the first frame."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    @property
    def busy(self) -> float:
        """Share of the time not spent blocked."""
        wall = self.wall_s
        return max(0.0, 1 - self.clock.seconds / wall) if wall else 0.0

    def _record_training(self, step: int) -> None:
        now = time.monotonic()
        rate = (self.steps - self._recorded_steps) / max(now - self._last_record, 1e-9)
        self._last_record, self._recorded_steps = now, self.steps
        loss = self._nats / self._labels if self._labels else None
        self._nats, self._labels, self._train_loss = 0.0, 0, loss
        recent, in_time = self.depth.take_recent(), self.time_cut.take_recent()
        self._send(
            "train", step, steps_per_s=rate, busy=self.busy, queue=self.upstream.pending(),
            in_flight=self.downstream.in_flight if self.downstream else 0,
            staleness=recent.get("staleness"), cosine=recent.get("cosine"), predictor_loss=recent.get("predictor_loss"),
            time_cosine=in_time.get("cosine"), loss=loss, bits_per_char=None if loss is None else bits(loss),
            **self.upstream.figures(),
        )  # fmt: skip

    def _loss_since(self, name: str) -> float | None:
        cut = self.time_cut if name == "time" else self.depth
        if not isinstance(cut, DecoupledInterface):
            return None
        before, self._probed[name] = self._probed.get(name, FitMeter()), replace(cut.total)
        return cut.total.loss_since(before)

    def _close_validation(self) -> None:
        if self._valid_count:
            loss = self._valid_sum / self._valid_count
            accuracy = self._valid_right / self._valid_count
            figures = {"loss": loss, "bits_per_char": bits(loss), "accuracy": accuracy}
            self._own = {} if self.downstream is None else figures
            self._send("own" if self._own else "valid", self._valid_step, **figures)
            self._valid_sum, self._valid_right, self._valid_count = 0.0, 0, 0

    def _send(self, kind: str, step: int, **figures: Any) -> None:
        self.sink({"kind": kind, "stage": self.index, "step": step, "wall_s": self.wall_s, **figures})


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
