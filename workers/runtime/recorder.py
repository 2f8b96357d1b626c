"""The figures of one stage: added up at every step, recorded every few steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import Interface
from dni.loss_function import CrossEntropy, Judgement, LossFunction
from dni.metrics.fit import FitMeter, bits
from dni.metrics.validation import Metric, MetricSums
from dni.stages.base import Stage
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.upstream import Upstream
from workers.runtime.divergence import DivergenceWatch
from workers.runtime.feed import Feed
from workers.runtime.forward_unlocked import ForwardUnlocked
from workers.runtime.piggyback.base import Piggyback
from workers.runtime.tally import RunTotals, optimizer_figures, waited_shares
from workers.system.json_logs import note_step

Record = dict[str, Any]


class Recorder:
    """Sends records to a sink: `train` every `every` steps, `valid` per validation pass (`own` for a local objective),
    `probe`, `checkpoint`, one `diverged` if the stage diverges (`workers.runtime.divergence`), and one `end`.

    All figures are of the whole run, also after a resume. `wall_s` is the time since the first frame, without the time
    between two sittings. busy is 1 - time blocked on queues or credit / `wall_s`. `train_s` is the time of training
    steps, waiting included; validation, probes and checkpoints are not in it.

    Args:
        sink: called with each record.
        index: of the stage.
        depth, time_cut: the interfaces at the two cuts.
        upstream, downstream: the edges; the last stage has no downstream edge.
        clock: the time blocked on the edges, in seconds.
        every: steps between two `train` records.
        guessing: loss per label of a model that knows nothing.
        function: the loss of the network; it chooses the recorded figures and their unit.
        parts: the parts of the model on this stage.
        metrics: further figures of validation, for the last stage.
        piggyback: what rides along with the frames, with figures of its own.
        names_waits: whether `clock` knows which neighbour the stage waits for.
    """

    def __init__(
        self,
        sink: Callable[[Record], None],
        index: int,
        depth: Interface,
        time_cut: Interface,
        upstream: Upstream | Feed | ForwardUnlocked,
        downstream: Downstream | None,
        clock: WaitTime,
        *,
        every: int,
        guessing: float = 0.0,
        function: LossFunction | None = None,
        parts: Sequence[Stage] = (),
        metrics: Sequence[Metric] = (),
        piggyback: Piggyback | None = None,
        names_waits: bool = True,
    ) -> None:
        self.sink, self.index, self.every, self.parts = sink, index, every, parts
        self.depth, self.time_cut, self.clock = depth, time_cut, clock
        self.upstream, self.downstream, self.names_waits = upstream, downstream, names_waits
        self.tally, self.watch, self.piggyback = RunTotals(), DivergenceWatch(guessing), piggyback or Piggyback()
        self.function = function or CrossEntropy()
        self.watch.unit = unit = self.function.unit
        self._unit = {} if unit == "nats" else {"unit": unit}
        self._metrics, self._diverged = MetricSums(metrics), False
        self._saved_at: float | None = None  # Unix time at which the loaded state was saved
        self._started: float | None = None
        self._last_record = self._last_event = 0.0
        self._valid_sum, self._valid_right, self._valid_count, self._valid_step = 0.0, 0, 0, 0
        self._probed: dict[str, FitMeter] = {}

    @contextmanager
    def handling(self, frame: Frame) -> Iterator[None]:
        """Time the handling of a frame, since the last one if this is a training step; record a DivergedError."""
        self._received(frame.kind)
        note_step(self.index, frame.step)
        try:
            yield
        except DivergedError as error:
            self._record_divergence(frame.step, str(error))
            self.end(frame.step)
            raise
        now = time.monotonic()
        if frame.kind is Kind.STEP:
            self.tally.train_s += now - self._last_event
        self._last_event = now

    def _received(self, kind: Kind) -> None:
        if self._started is None:
            self._started = self._last_event = time.monotonic()
            self._last_record = self._started - self.tally.unrecorded_s
            self.clock.seconds = self.tally.blocked_s
            self.clock.take()  # the wait for the first frame does not count
        if kind is not Kind.EVALUATE:
            self._close_validation()

    def step(self, step: int, characters: int) -> None:
        """Add up one finished training step."""
        self.tally.steps += 1
        self.tally.characters += characters
        if self.depth.measured is not None:
            self.tally.nats += self.depth.measured[0]
            self.tally.labels += self.depth.measured[1]
        self._watch_loss(step)
        if step % self.every == 0:
            self._record_training(step)

    def validation(self, step: int, window: Judgement) -> None:
        """Add the result of one validation window."""
        self._valid_sum += window.loss
        self._valid_right += window.hits
        self._valid_count += window.labels
        self._valid_step = step

    def measure(self, output: Tensor, labels: Tensor) -> None:
        """Add one validation window to the metrics."""
        self._metrics.add(output, labels)

    def probe(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Record the figures of a probe, with the mean predictor loss of each cut since the last probe."""
        losses = {f"{name}_loss": self._loss_since(name) for name in ("time", "depth")}
        self._send("probe", step, **figures, **losses)

    def skip(self) -> None:
        """Forget a validation pass that was cut off."""
        self._valid_sum, self._valid_right, self._valid_count = 0.0, 0, 0
        self._metrics.take()

    def saving(self, step: int) -> Callable[[], None]:
        """Return what to call once the checkpoint of this stage is on disk, from any thread: it records that."""
        return partial(self._send, "checkpoint", step, absurd=self.watch.absurd)

    def end(self, step: int) -> None:
        """Record the end of the run for this stage."""
        if self.watch.diverged(at_the_end=True):
            self._record_divergence(step, self.watch.verdict())
        depth, time_cut, tally = self.depth.means(), self.time_cut.means(), self.tally
        self._send(
            "end", step, busy=self.busy, train_s=tally.train_s, characters=tally.characters,
            steps_per_s=tally.steps / tally.train_s if tally.train_s else 0.0,
            staleness_mean=depth.get("staleness"), predictor_cosine=depth.get("cosine"),
            time_cosine=time_cut.get("cosine"), train_loss=tally.train_loss, peak_rss_mb=tally.peak(),
            sent_mb=self.sent_bytes / 1e6, **self._unit,
            **({"higher_is_better": self._metrics.directions} if self._metrics.metrics else {}),
            **self.upstream.figures(), **({"own": tally.own} if tally.own else {}),
            **(self.downstream.figures() if self.downstream else {}), **self.piggyback.figures(),
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the sums from which the figures of a resumed run continue."""
        unrecorded_s = 0.0 if self._started is None else time.monotonic() - self._last_record
        return {
            "tally": self.tally.state_dict(
                wall_s=self.wall_s, blocked_s=self.clock.seconds, unrecorded_s=unrecorded_s, sent_bytes=self.sent_bytes
            ),
            "watch": self.watch.state_dict(),
            "saved_at": time.time(),
            "probed": {name: {**vars(meter)} for name, meter in self._probed.items()},
        }

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """The inverse of `state_dict`, before the first frame. None (an old checkpoint): figures begin anew."""
        if state is None:
            return
        self.tally.load_state_dict(state["tally"])
        self.watch.load_state_dict(state["watch"])
        self._saved_at = state.get("saved_at")
        self._probed = {name: FitMeter(**sums) for name, sums in state["probed"].items()}

    def rejoin(self) -> None:
        """Count the time since the loaded state was saved as time blocked: the run has gone on meanwhile."""
        away_s = 0.0 if self._saved_at is None else max(0.0, time.time() - self._saved_at)
        self.tally.wall_s += away_s
        self.tally.blocked_s += away_s

    @property
    def wall_s(self) -> float:
        """Seconds since the first frame, without the time between two sittings."""
        return self.tally.wall_s + (0.0 if self._started is None else time.monotonic() - self._started)

    @property
    def busy(self) -> float:
        """Share of the time that was not spent blocked."""
        return max(0.0, 1 - self.clock.seconds / self.wall_s) if self.wall_s else 0.0

    @property
    def sent_bytes(self) -> int:
        """Bytes of the tensors that this stage has sent to others, in the whole run."""
        return self.tally.sent_bytes + sum(edge.sent_bytes for edge in (self.upstream, self.downstream) if edge)

    def _record_training(self, step: int) -> None:
        now, tally = time.monotonic(), self.tally
        seconds = max(now - self._last_record, 1e-9)
        rate = (tally.steps - tally.recorded_steps) / seconds
        self._last_record, tally.recorded_steps = now, tally.steps
        loss = tally.nats / tally.labels if tally.labels else None
        tally.nats, tally.labels, tally.train_loss = 0.0, 0, loss
        recent, in_time = self.depth.take_recent(), self.time_cut.take_recent()
        waits = waited_shares(self.clock, self.index, seconds, last=self.downstream is None) if self.names_waits else {}
        self._send(
            "train", step, steps_per_s=rate, busy=self.busy, queue=self.upstream.pending(),
            in_flight=self.downstream.in_flight if self.downstream else 0,
            staleness=recent.get("staleness"), cosine=recent.get("cosine"), predictor_loss=recent.get("predictor_loss"),
            time_cosine=in_time.get("cosine"), loss=loss, sent_bytes=self.sent_bytes,
            bits_per_label=None if loss is None or self._unit else bits(loss), **self._unit,
            dropped_targets=self.downstream.dropped.total() if self.downstream else 0,
            **waits, **optimizer_figures(self.parts), **self.upstream.figures(),
        )  # fmt: skip

    def _watch_loss(self, step: int) -> None:
        measured, local = self.depth.measured, self.depth.local_loss
        loss = measured[0] / measured[1] if measured and measured[1] else local
        if loss is not None:
            self.watch.add(step, loss)
            if self.watch.diverged():
                self._record_divergence(step, self.watch.verdict())

    def _record_divergence(self, step: int, why: str) -> None:
        """Record once that the stage has diverged, and up to which step its parameters were good."""
        if not self._diverged:
            self._diverged = True
            self._send("diverged", step, why=why, good=min(self.watch.good, step))

    def _loss_since(self, name: str) -> float | None:
        meter = (self.time_cut if name == "time" else self.depth).fit_meter
        if meter is None:
            return None
        before, self._probed[name] = self._probed.get(name, FitMeter()), replace(meter)
        return meter.loss_since(before)

    def _close_validation(self) -> None:
        if self._valid_count:
            figures = self.function.figures(Judgement(self._valid_sum, self._valid_right, self._valid_count))
            self.tally.own = {} if self.downstream is None else figures
            measured = self._metrics.take()
            more: dict[str, Any] = {**self._unit, **({"metrics": measured} if measured else {})}
            self._send("own" if self.tally.own else "valid", self._valid_step, **figures, **more)
            self._valid_sum, self._valid_right, self._valid_count = 0.0, 0, 0

    def _send(self, kind: str, step: int, **figures: Any) -> None:
        self.sink({"kind": kind, "stage": self.index, "step": step, "wall_s": self.wall_s, **figures})
