"""The worker of one stage of torch's pipelines: `depth=gpipe`, `1f1b`, `interleaved_1f1b`, `zero_bubble`."""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import torch
from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.losses import count_rows
from dni.lr_schedule import resume_schedule
from dni.named_tensors import Value
from workers.build.data import open_data
from workers.build.model import ties_of
from workers.build.stage import build_stage
from workers.build.trace import is_traced
from workers.build.warm_start import take_weights
from workers.comm.edge import Loss, error_context
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, value_in
from workers.repartition.state import load_part
from workers.runtime.feed import Feed
from workers.runtime.job import Job
from workers.runtime.pipeline.broadcast import Broadcast, barrier
from workers.runtime.pipeline.exchange import Exchange
from workers.runtime.pipeline.process_group import lost_neighbours
from workers.runtime.pipeline.schedule import Pipeline
from workers.runtime.pipeline.values import Specs, fits, receive_value, send_value, specs_of, split_rows
from workers.runtime.recorder import Recorder
from workers.runtime.timeline.tracer import tracer_of
from workers.storage import checkpoint
from workers.storage.checkpoint_writer import CheckpointWriter

#: Tags of messages outside of the pipeline schedule.
ENDING, MEASURED, VALIDATING = 1, 2, 3


class PipelinedWorker:
    """One stage, a rank of torch's process group.

    Every stage reads the same data in the same order: the first uses the inputs, the last the labels, all the starts of
    sequences. Busy is the share of time not spent waiting: all time of a step outside of its passes counts as a wait.

    Args:
        job: the run; the first stage reads its `stop` and tells the others.
        index: index of the stage.
    """

    def __init__(self, job: Job, index: int) -> None:
        config = job.config
        self.job, self.index, self.config = job, index, config
        ties = ties_of(config)  # first: it seeds torch
        self.stages = {part: build_stage(config, part) for part in range(index, config.parts, config.stages)}
        self.exchange = Exchange(config, ties, self.stages)
        self.ending = Event()  # set in all stages at the same step
        data = job.data or open_data(config)
        self.feed = Feed(config, data, start=job.start, stop=self.ending)
        self.depth = LossInterface(config.loss) if config.parts - 1 in self.stages else Interface()
        tracer = tracer_of(job, index)
        self.blocked, self.computing, self.passing = tracer.clock(), tracer.clock(), tracer.clock()
        self.recorder = Recorder(
            tracer.sink(job.sink), index, self.depth, ZeroInterface(), self.feed, None, self.blocked,
            every=config.log_every, guessing=config.loss.of_guessing(config.model.symbols or 1),
            function=config.loss, metrics=config.metrics, parts=list(self.stages.values()),
            names_waits=False,
        )  # fmt: skip
        for stage in self.stages.values():
            tracer.stage(stage, self.depth, ZeroInterface())
        tracer.frames(self.recorder, self.feed)
        self.writer = CheckpointWriter(job.run_dir, config.parts)
        self.orders = Broadcast(0, ENDING)  # (whether this step is the last one, 0)
        self.loss_reports = Broadcast(config.stages - 1, MEASURED)  # (summed nats, counted labels) of this step
        self.step, self.counted = job.start, 0
        self.traced = any(is_traced(stage.module) for stage in self.stages.values())
        self.specs: list[Specs] = []  # of the newest validation window, before and after every part
        self.losses: list[Tensor] = []  # of the microbatches of this step
        self.pipeline: Pipeline | None = None
        if config.resume is not None:
            self._resume(Path(config.resume))
        elif config.start_from is not None:
            for stage in self.stages.values():
                take_weights(config, stage)

    def run(self) -> None:
        """Run all steps. Raises WorkerLost, DivergedError."""
        handlers = {Kind.STEP: self.train, Kind.EVALUATE: self.evaluate, Kind.CHECKPOINT: self.save, Kind.END: self.end}
        kind, neighbours = None, self._neighbours()
        with self.writer:
            while kind is not Kind.END:
                frame = self.feed.receive()
                kind, self.step = frame.kind, frame.step
                with self.recorder.handling(frame), error_context(f"step {frame.step}"), lost_neighbours(neighbours):
                    self.writer.check()
                    handlers[kind](frame)

    def train(self, frame: Frame) -> None:
        """Take one training step; messages of the other stages about it have arrived at its end."""
        labels = frame.tensors["labels"]
        self.counted = self.config.loss.count(labels)
        self.orders.expect()
        self.loss_reports.expect()
        if self.index == 0:
            self.orders.send(self.job.stop.is_set(), 0)
        with self.passing.waiting():  # a timeline shows as a wait what is no pass, as `blocked` counts it
            self._passes(frame)
        with self.blocked.waiting():
            self.exchange.before_update()
        for stage in self.stages.values():
            stage.update(self.config.data.divisor(labels))
        with self.blocked.waiting():
            self.exchange.after_update()
            (last, _), (nats, counted) = self.orders.receive(), self.loss_reports.receive()
        self.feed.finish(frame, losses=[Loss(frame.step, nats, int(counted))])
        if last:
            self.ending.set()
        self.recorder.step(frame.step, count_rows(labels))
        for stage in self.stages.values():
            if stage.schedule is not None:
                stage.schedule.step()

    def evaluate(self, frame: Frame) -> None:
        """Evaluate one validation window: forward passes only, of the whole batch at once unless a trace has others."""
        labels, reset = frame.tensors["labels"], frame.tensors["reset"]
        size = self.config.data.batch // self.config.microbatches if self.traced else len(reset)
        values = split_rows(value_in(VALUE, frame.tensors), size)
        scores = [self._evaluate(*some) for some in zip(values, torch.split(reset, size), strict=True)]
        if None not in scores:
            output = torch.cat([each for each in scores if each is not None])
            labels = labels.to(output.device)
            self.recorder.validation(frame.step, self.config.loss.judge(output, labels))
            self.recorder.measure(output, labels)

    def save(self, frame: Frame) -> None:
        """Save a checkpoint of every part, when all stages have come here."""
        states = {part: self.state_dict(part) for part in self.stages}
        self.writer.save(frame.step, states, self.recorder.saving(frame.step))
        with self.blocked.waiting():
            barrier()

    def end(self, frame: Frame) -> None:
        """Wait until all stages have finished."""
        self.writer.finish()
        with self.blocked.waiting():
            barrier()
        self.recorder.end(frame.step)

    def state_dict(self, part: int) -> dict[str, Any]:
        """Return the checkpoint of a part, with the keys that `depth=backprop` writes."""
        unused: dict[str, Any] = {"depth": {}, "time": {}, "bootstrap": {}, "early": [], "losses": []}
        own = {"stage": self.stages[part].state_dict(), "upstream": self.feed.state_dict()}
        return {**own, **unused, "journal": self.recorder.state_dict()}

    def _neighbours(self) -> str:
        """Name the stages that this one exchanges with; with several parts per stage they form a ring."""
        size, near = self.config.stages, (self.index - 1, self.index + 1)
        ring = self.config.parts > size
        return "stage " + " or ".join(str(k) for k in sorted({k % size for k in near if ring or 0 <= k < size}))

    def _evaluate(self, value: Value, reset: Tensor) -> Tensor | None:
        """Run the parts of this stage forward, with values from and to the others; return the scores of the last."""
        if not self.specs or not fits(self.specs[0], value):
            self.specs = specs_of(self.config, value, traced=self.traced)
        for part, stage in self.stages.items():
            if part:
                before = (self.index - 1) % self.config.stages
                with self.blocked.waiting(), lost_neighbours(f"stage {before}"):
                    value = receive_value(self.specs[part], before, VALIDATING, stage.device)
            value = stage.evaluate(value, reset)
            if part < self.config.parts - 1:
                after, where = (self.index + 1) % self.config.stages, f"the output of part {part}"
                with self.blocked.waiting():
                    send_value(value, self.specs[part + 1], after, VALIDATING, where)
        return value if self.config.parts - 1 in self.stages else None

    def _passes(self, frame: Frame) -> None:
        value, before, start = value_in(VALUE, frame.tensors), self.computing.seconds, time.monotonic()
        if self.pipeline is None or not self.pipeline.takes(value):
            self.pipeline = Pipeline(self.config, self.stages, value, self._loss, self.computing)
        self.losses, sent = [], self.pipeline.sent_bytes
        self.pipeline.step(value, frame.tensors["labels"], frame.tensors["reset"])
        self.recorder.tally.sent_bytes += self.pipeline.sent_bytes - sent
        computed = self.computing.seconds - before
        self.blocked.seconds += max(0.0, time.monotonic() - start - computed)

    def _loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one microbatch in the last stage; after the last one, report the loss of the step."""
        assert self.pipeline is not None
        with self.computing.waiting(None, "loss"):
            loss = self.config.loss.summed(scores, labels)
            self.losses.append(loss.detach())
            if len(self.losses) == self.pipeline.microbatches:
                self._report_loss()
        return loss

    def _report_loss(self) -> None:
        nats = sum(loss.item() for loss in self.losses)
        if not math.isfinite(nats):
            mean = nats / max(1, self.counted)
            raise DivergedError(f"the loss of step {self.step} is {mean}: lower the learning rates or clip gradients")
        self.depth.measured = nats, self.counted
        self.loss_reports.send(nats, self.counted)

    def _resume(self, folder: Path) -> None:
        start = self.job.start
        for part, stage in self.stages.items():
            state = load_part(self.config, folder, start, part, stage, partial(self.state_dict, part))
            with checkpoint.fitting(folder, start, part):
                stage.load_state_dict(state["stage"])
                own = self.config.optimizer.schedule
                stage.schedule = resume_schedule(own, stage.optimizer, self.config.decay_steps, start)
                self.feed.load_state_dict(state["upstream"])
                self.recorder.load_state_dict(state.get("journal"))
