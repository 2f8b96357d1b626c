"""Put a stage's calls, waits and links under a timeline. Without `profile=true` everything stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.stages.base import Stage
from workers.comm.edge import NOTHING, WaitTime
from workers.comm.frame import Frame
from workers.comm.transports.base import ChannelEnd
from workers.runtime.feed import Feed
from workers.runtime.job import Job
from workers.runtime.recorder import Record, Recorder
from workers.runtime.timeline.end import TracedEnd
from workers.runtime.timeline.slices import Timeline
from workers.runtime.timeline.stage_file import write_stage

P = ParamSpec("P")
R = TypeVar("R")


class Tracer:
    """Traces nothing: gives everything back as it is."""

    def clock(self) -> WaitTime:
        """Return a new sum of waits, or of computing, whose blocks are slices."""
        return WaitTime()

    def end(self, end: ChannelEnd | None, peer: int) -> ChannelEnd | None:
        """Return the end towards stage `peer`, with its frames noted."""
        return end

    def sink(self, sink: Callable[[Record], None]) -> Callable[[Record], None]:
        """Return a sink that adds the timeline's sums to the stage's last record."""
        return sink

    def stage(self, stage: Stage, depth: Interface, time_cut: Interface) -> None:
        """Make the calls of a stage and of its cuts slices."""

    def frames(self, recorder: Recorder, source: object) -> None:
        """Follow the steps, and make reading data a slice if `source` is the data."""


class StageTracer(Tracer):
    """Traces stage `index` in `profile_steps` steps, after the first `profile_after` of this sitting."""

    def __init__(self, job: Job, index: int) -> None:
        first = job.start + job.config.profile_after + 1
        self.timeline = Timeline(index, first, first + job.config.profile_steps - 1)
        self.run_dir = job.run_dir

    def clock(self) -> WaitTime:
        return TracedTime(self.timeline)

    def end(self, end: ChannelEnd | None, peer: int) -> ChannelEnd | None:
        return None if end is None else TracedEnd(end, peer, self.timeline)

    def sink(self, sink: Callable[[Record], None]) -> Callable[[Record], None]:
        def finished(record: Record) -> None:
            if record["kind"] == "end":
                self.timeline.close()
                write_stage(self.run_dir, self.timeline)
                record = {**record, **self.timeline.figures()}
            sink(record)

        return finished

    def stage(self, stage: Stage, depth: Interface, time_cut: Interface) -> None:
        named = [("forward", "forward"), ("backward", "backward"), ("update", "optimizer"), ("evaluate", "evaluate")]
        self._wrap(stage, named, stage.device)
        asked = "loss" if isinstance(depth, LossInterface) else "predictor"
        self._wrap(depth, [("ready_steps", asked), ("target", "predictor")], stage.device)
        if not isinstance(time_cut, ZeroInterface):
            self._wrap(time_cut, [("gradient", "predictor"), ("target", "predictor")], stage.device)

    def frames(self, recorder: Recorder, source: object) -> None:
        handling = recorder.handling

        def followed(frame: Frame) -> AbstractContextManager[None]:
            self.timeline.at(frame)
            return handling(frame)

        recorder.handling = followed  # type: ignore[method-assign, assignment]
        if isinstance(source, Feed):
            self._wrap(source, [("receive", "data")], torch.device("cpu"))

    def _wrap(self, owner: object, calls: Iterable[tuple[str, str]], device: torch.device) -> None:
        for name, label in calls:
            setattr(owner, name, self._sliced(getattr(owner, name), label, device))

    def _sliced(self, call: Callable[P, R], label: str, device: torch.device) -> Callable[P, R]:
        @wraps(call)
        def sliced(*args: P.args, **kwargs: P.kwargs) -> R:
            with self.timeline.slice(label):
                result = call(*args, **kwargs)
                if device.type == "cuda" and self.timeline.on:  # until then only the launch is over
                    torch.cuda.current_stream(device).synchronize()
                return result

        return sliced


class TracedTime(WaitTime):
    """A sum of seconds whose blocks are slices of a timeline."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__()
        self._timeline = timeline

    @contextmanager
    def waiting(
        self, stage: int | None = None, doing: str = "wait for data", details: Mapping[str, int] = NOTHING
    ) -> Iterator[None]:
        with self._timeline.slice(doing, details), super().waiting(stage, doing, details):
            yield


def tracer_of(job: Job, index: int) -> Tracer:
    """Return what traces stage `index`, or does not."""
    return StageTracer(job, index) if job.config.profile else Tracer()
