"""One worker from the settings, its index, and the ends of its two edges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

import torch

from dni.stage import Stage
from workers import checkpoint
from workers.build import activation_shape, build_stage, follow_course
from workers.clock import Clock
from workers.config import Config
from workers.contents import Contents
from workers.cuts import bootstrap, depth_interface, goes_back, time_interface
from workers.downstream import Downstream
from workers.edge import Blocked
from workers.emulation import slow_down
from workers.feed import Feed
from workers.frame import PROTOCOL_VERSION, Handshake
from workers.inputs import input_interface
from workers.journal import Journal, Record
from workers.neighbours import Neighbours
from workers.schema import DataKind, DepthMethod, InputKind
from workers.sources import Data, open_data
from workers.transports.base import ChannelEnd
from workers.unlocked import Unlocked
from workers.upstream import Upstream
from workers.warm_start import take_weights
from workers.worker import Worker


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
            fingerprint=self.config.fingerprint(),
            incarnation=0,
            next_step=self.start + 1,
        )


def assemble(job: Job, index: int, upstream: ChannelEnd | None, downstream: ChannelEnd | None) -> Worker:
    """Build stage `index` and, in a resumed run, load its checkpoint. Raises ConfigError and CheckpointError."""
    config = job.config
    contents = contents_of(config, index) if index else None  # first: it seeds torch, as building a stage does
    stage = build_stage(config, index)
    clock, timeout = Blocked(), config.transport.timeout_s
    before = _before(job, index, stage, upstream, clock, contents)
    source = before.data.train if isinstance(before, Feed) else None
    depth, time_cut = depth_interface(config, index, stage), time_interface(config, index, stage, source)
    slow_down(config.emulate, stage, depth, time_cut)
    after = None
    if downstream is not None:
        after = Downstream(downstream, stage=index, window=_edge_window(config), clock=clock, timeout_s=timeout)
    ends = {index - 1: upstream, index + 1: downstream}
    Neighbours(index, clock, {stage: end for stage, end in ends.items() if end is not None})
    journal = Journal(
        job.sink, index, depth, time_cut, before, after, clock, every=config.log_every, parts=[stage],
        guessing=math.log(config.model.symbols or 1),
    )  # fmt: skip
    worker = Worker(
        stage, depth, time_cut, bootstrap(config, index, stage, depth, time_cut), before, after,
        lag=config.depth.lag,
        staleness=config.optimizer.staleness,
        goes_back=partial(goes_back, config, index),
        clock=Clock.of(config.depth.clocks, index),
        journal=journal,
        save=partial(checkpoint.save, job.run_dir, index, config.stages),
    )  # fmt: skip
    if config.resume is not None:
        _go_on(worker, job, Path(config.resume), index)
    elif config.start_from is not None:
        take_weights(config, stage, depth, time_cut)
    return worker


def _before(
    job: Job, index: int, stage: Stage, upstream: ChannelEnd | None, clock: Blocked, contents: Contents | None
) -> Upstream | Feed | Unlocked:
    """What the stage reads."""
    config = job.config
    if upstream is None:
        return Feed(config, job.data or open_data(config), start=job.start, stop=job.stop)
    edge = Upstream(upstream, stage=index, clock=clock, timeout_s=config.transport.timeout_s, contents=contents)
    if config.depth.inputs is InputKind.received:
        return edge
    own = Feed(config, open_data(config), start=job.start, stop=Event())  # sources have state: none is shared
    inputs = input_interface(config, index, stage)
    return Unlocked(edge, own, inputs, window=config.depth.window, lag=config.depth.lag)


def contents_of(config: Config, index: int) -> Contents:
    """What the frames hold that stage `index`, 1 or more, receives."""
    model, kind = config.model, config.data.kind
    one_label = kind is DataKind.two_clocks
    varies = one_label or (config.whole_sequences and kind in (DataKind.copy, DataKind.repeat_copy))
    return Contents(
        activation_shape(config, index - 1),
        torch.get_default_dtype(),
        config.data.batch,
        model.symbols or 0,
        smaller=model.image is not None,
        steps=None if varies else config.window,
        sequences=model.image is None,
        one_label=one_label,
        context=config.history or config.lookahead,
        context_symbols=(model.input_symbols if config.history else model.symbols) or 0,
        every=Clock.of(config.depth.clocks, index).every,
        numbered=bool(config.depth.clocks),
    )


def _edge_window(config: Config) -> int:
    """Most unfinished frames on one edge: W, or an even share where a stage keeps what is on all edges after it."""
    waits = config.depth.method is DepthMethod.delayed or config.mix > 0
    shared = config.stages - 1 if waits else 1
    return config.depth.window // shared


def _go_on(worker: Worker, job: Job, folder: Path, index: int) -> None:
    state = checkpoint.load(folder, job.start, index, job.config.stages)
    with checkpoint.fitting(folder, job.start, index):
        worker.load_state_dict(state)
        follow_course(worker.stage, job.config)
