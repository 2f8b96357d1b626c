"""Build the worker of one stage from the settings, its index, and the ends of its two edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from dni.lr_schedule import resume_schedule
from dni.stages.base import Stage
from dni.stages.tied import Tied
from workers.build.data import open_data
from workers.build.interfaces import bootstrap, depth_interface, goes_back, input_interface, time_interface
from workers.build.model import ties_of
from workers.build.shapes import activation_specs
from workers.build.stage import build_stage
from workers.build.warm_start import take_weights
from workers.comm.contents import Contents
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.lasting.downstream import LastingDownstream
from workers.comm.lasting.replaceable_end import ReplaceableEnd
from workers.comm.lasting.upstream import LastingUpstream
from workers.comm.neighbours import Neighbours
from workers.comm.transports.base import ChannelEnd
from workers.comm.upstream import Upstream
from workers.config.settings import Config
from workers.repartition.state import load_part
from workers.runtime.emulation import slow_down
from workers.runtime.feed import Feed
from workers.runtime.forward_unlocked import ForwardUnlocked
from workers.runtime.job import Job
from workers.runtime.piggyback.build import downstream_specs, piggyback_of, upstream_specs
from workers.runtime.recorder import Recorder
from workers.runtime.timeline.tracer import tracer_of
from workers.runtime.update_period import UpdatePeriod
from workers.runtime.worker import Worker
from workers.storage import checkpoint
from workers.storage.checkpoint_writer import CheckpointWriter
from workers.tracking.early_stopping import BROKEN_OFF
from workers.tracking.histograms import Histograms


def assemble(job: Job, index: int, upstream: ChannelEnd | None, downstream: ChannelEnd | None) -> Worker:
    """Build stage `index` and, in a resumed run, load its checkpoint. Raises ConfigError and CheckpointError."""
    config = job.config
    ties = ties_of(config)
    contents = contents_of(config, index, ties) if index else None  # first: it seeds torch, as building a stage does
    stage = build_stage(config, index)
    tracer = tracer_of(job, index)
    clock, timeout = tracer.clock(), config.transport.timeout_s
    upstream, downstream = tracer.end(upstream, index - 1), tracer.end(downstream, index + 1)
    before = _before(job, index, stage, upstream, clock, contents)
    source = before.data.train if isinstance(before, Feed) else None
    depth, time_cut = depth_interface(config, index, stage), time_interface(config, index, stage, source)
    slow_down(config.emulate, stage, depth, time_cut)
    tracer.stage(stage, depth, time_cut)
    after = None
    if downstream is not None:
        make: Callable[..., Downstream] = partial(Downstream, downstream)
        if isinstance(downstream, ReplaceableEnd):
            make = partial(LastingDownstream, downstream)
        after = make(
            stage=index, window=config.depth.in_flight(config.stages), clock=clock, timeout_s=timeout,
            most_replies=config.depth.most_replies, piggybacked=upstream_specs(config, ties, index + 1),
        )  # fmt: skip
    ends = {index - 1: upstream, index + 1: downstream}
    Neighbours(index, clock, {stage: end for stage, end in ends.items() if end is not None})
    piggyback = piggyback_of(config, ties, index, stage, depth)
    recorder = Recorder(
        tracer.sink(job.sink), index, depth, time_cut, before, after, clock, every=config.log_every, parts=[stage],
        guessing=config.loss.of_guessing(config.model.symbols or 1), function=config.loss,
        metrics=[] if downstream is not None else config.metrics, piggyback=piggyback,
    )  # fmt: skip
    tracer.frames(recorder, before)
    if config.tracking.histograms is not None:
        Histograms(stage, index, config.tracking.histograms, job.sink)
    worker = Worker(
        stage, depth, time_cut, bootstrap(config, index, stage, depth, time_cut), before, after,
        lag=config.depth.lag,
        staleness=config.optimizer.staleness,
        goes_back=partial(goes_back, config, index),
        period=UpdatePeriod.of(config.periods, index),
        recorder=recorder,
        piggyback=piggyback,
        writer=CheckpointWriter(job.run_dir, config.stages),
    )  # fmt: skip
    newest = _restore(worker, job, index)
    if newest is None and config.start_from is not None:
        take_weights(config, stage, depth, time_cut)
    if isinstance(before, LastingUpstream):
        before.newest, before.on_gap = newest or 0, partial(_skip, worker)
    return worker


def _before(
    job: Job, index: int, stage: Stage, upstream: ChannelEnd | None, clock: WaitTime, contents: Contents | None
) -> Upstream | Feed | ForwardUnlocked:
    """Build what the stage reads from: an edge, a feed, or both."""
    config = job.config
    if upstream is None:
        return Feed(
            config, job.data or open_data(config), start=job.start, stop=job.stop,
            broken_off=lambda step: job.sink({"kind": BROKEN_OFF, "stage": index, "step": step}),
        )  # fmt: skip
    make: Callable[..., Upstream] = partial(Upstream, upstream)
    if isinstance(upstream, ReplaceableEnd):
        make = partial(LastingUpstream, upstream)
    edge = make(stage=index, clock=clock, timeout_s=config.transport.timeout_s, contents=contents)
    if not config.depth.predicts_inputs:
        return edge
    feed = Feed(
        config, open_data(config), start=job.start, stop=Event()
    )  # sources have state, so each feed opens its own
    inputs = input_interface(config, index, stage.device)
    return ForwardUnlocked(edge, feed, inputs, window=config.depth.max_in_flight, lag=config.depth.lag)


def contents_of(config: Config, index: int, ties: Sequence[Tied] = ()) -> Contents:
    """Return what a frame for stage `index`, 1 or more, must hold."""
    model, data = config.model, config.data
    varies = data.one_label or data.varies or (config.whole_sequences and data.grows)
    return Contents(
        activation_specs(config, index - 1),
        data.batch,
        model.symbols or 0,
        smaller=data.varies or not data.sequences,
        smaller_steps=data.smaller_batches,
        steps=None if varies else config.window,
        sequences=data.sequences,
        one_label=data.one_label,
        numbers=(model.symbols or 0) if data.numbers else 0,
        context=config.history or config.future_labels,
        context_symbols=(model.input_symbols if config.history else model.symbols) or 0,
        every=config.periods[index],
        numbered=max(config.periods) > 1,
        piggybacked=downstream_specs(config, ties, index),
    )


def _skip(worker: Worker, steps: int) -> None:
    """Go on after training steps that did not come: forget what was carried over; the schedule counts them."""
    worker.stage.state = None
    worker.recorder.skip()
    if worker.stage.schedule is not None:
        for _ in range(steps):
            worker.stage.schedule.step()


def _restore(worker: Worker, job: Job, index: int) -> int | None:
    """Load the checkpoint from which a resumed run, or a stage that was started again, goes on; return its step."""
    config = job.config
    own = checkpoint.newest_part(job.run_dir, index, job.start) if job.incarnation else None
    if own is not None:
        _load(worker, config, job.run_dir, own, checkpoint.load(job.run_dir, own, index, config.parts), index)
        worker.recorder.rejoin()
        return own
    if config.resume is None:
        return None
    folder, start = Path(config.resume), job.start
    state = load_part(config, folder, start, index, worker.stage, worker.state_dict)
    _load(worker, config, folder, start, state, index)
    return start


def _load(worker: Worker, config: Config, folder: Path, step: int, state: dict[str, Any], index: int) -> None:
    with checkpoint.fitting(folder, step, index):
        worker.load_state_dict(state)
        stage = worker.stage
        stage.schedule = resume_schedule(config.optimizer.schedule, stage.optimizer, config.decay_steps, step)
