"""Start a run: settle the settings, choose threads or processes, keep what the run leaves behind."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dni.data.base import Data
from dni.errors import DniError
from workers.build.provenance import origin_of
from workers.comm.address import socket_folder
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.launch.accept import Accepted, accept, devices_here
from workers.launch.cluster_environment import SUBMITTED, RankInfo
from workers.launch.diverged import refuse_diverged, stop_when_diverged
from workers.launch.external import run_first_stage, run_later_stage
from workers.launch.how_to_go_on import refusals_in_a_run, saying_how_to_go_on
from workers.launch.supervisor import Supervisor
from workers.launch.threads import run_threads
from workers.resume.resume import best_saved, hand_on, warn_of_versions
from workers.runtime.job import Job
from workers.runtime.recorder import Record
from workers.storage import checkpoint, vocabulary
from workers.storage.record import write_record
from workers.storage.versions import keep_versions
from workers.system.errors import about, refusals_at_the_door
from workers.system.signals import ENDING, INSISTENT
from workers.tracking.early_stopping import Stop, stop_when_no_better
from workers.tracking.monitor import Monitor
from workers.tracking.run import SUMMARY
from workers.tracking.sittings import added_up, begin_sitting
from workers.tracking.summary import RunFacts, write_summary
from workers.tracking.tensorboard import keep_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]
    interrupted: bool


def launch(config: Config, run_dir: Path, rank_info: RankInfo | None = None) -> Result:
    """Run to the end, or to an interrupt. Raises ConfigError before anything starts; WorkerLost if a stage is lost;
    DivergedError, with a summary written, if the run has diverged.

    `seat`: of the first stage, where an engine has started all of them.
    """
    with accept(config, run_dir, rank_info) as accepted:
        return run(accepted)


def run(accepted: Accepted) -> Result:
    """Run what was accepted, the first stage of it or all. Raises as `launch`."""
    stop = Stop()
    with refusals_at_the_door():
        known, begun = prepare(accepted)
    with refusals_in_a_run(accepted.run_dir):
        summary = follow(accepted, known, begun, stop)
    refuse_diverged(accepted.config, accepted.run_dir, stop)
    return Result(summary, summary["interrupted"])


def prepare(accepted: Accepted) -> tuple[RunFacts, Record]:
    """Write the settings into the run's folder, with what an earlier sitting hands on; return what the summary says of
    the settings, and the record that this sitting begins."""
    config, run_dir = accepted.config, accepted.run_dir
    known = facts(config, accepted.data, accepted.rank_info)
    warn_of_versions(config)
    checkpoint.drop_after(run_dir, config.resume_step or 0)
    write_record(run_dir, accepted.recorded)
    keep_versions(run_dir)
    vocabulary.save(run_dir, accepted.data.characters, accepted.data.tokenizer)
    begun = begin_sitting(config)  # before what is computed again is cut off
    hand_on(config, run_dir)
    return known, begun


def follow(accepted: Accepted, known: RunFacts, begun: Record, stop: Stop) -> dict[str, Any]:
    """Run the stages, write down what they report, and return the summary."""
    config, run_dir = accepted.config, accepted.run_dir
    watched = Monitor(run_dir, config.stages, config.planned_steps, tensorboard=config.tensorboard)
    with watched as monitor, socket_folder() as sockets:
        monitor(begun)
        job = Job(config, run_dir, sink(config, run_dir, monitor, stop), stop, accepted.data, sockets)
        run_to_an_end(job, stop, accepted.rank_info)
        ends = monitor.summary_stages()
        with about(run_dir / SUMMARY):
            summary = write_summary(
                run_dir, known, stages=ends, valid=monitor.valid_history,
                ended=why_ended(config, stop, min((end["step"] for end in ends), default=0)),
                sittings=added_up(monitor.sittings),
            )  # fmt: skip
    if config.tensorboard:
        keep_settings(run_dir, to_plain(config), summary)
    return summary


def launch_later_stage(config: Config, run_dir: Path, rank_info: RankInfo) -> None:
    """Run another stage than the first, where an engine has started all of them. Raises as `launch`."""
    with accept(config, run_dir, rank_info) as accepted, refusals_in_a_run(run_dir):
        run_later_stage(accepted.config, run_dir, rank_info)


def run_to_an_end(job: Job, stop: Stop, rank_info: RankInfo | None) -> None:
    """As `run_stages`, but stages that are lost because one has diverged are no error: it is said with the summary."""
    try:
        run_stages(job, stop, rank_info)
    except DniError:
        if stop.diverged is None:
            raise


def run_stages(job: Job, stop: Stop, rank_info: RankInfo | None = None) -> None:
    """In threads or processes, as the settings say, or here the first one, until all stages have ended."""
    if rank_info is not None:
        with stop_on_signals(stop, lambda: None):
            return run_first_stage(job, rank_info)
    if job.config.threads:
        with stop_on_signals(stop, lambda: None), saying_how_to_go_on(job.run_dir):
            return run_threads(job)
    supervisor = Supervisor(job)
    with stop_on_signals(stop, supervisor.wake):
        supervisor.run()
    return None


def why_ended(config: Config, stop: Stop, done: int) -> str:
    """The setting that ended the run, "interrupted" or "diverged"."""
    return "diverged" if stop.diverged else stop.reason or ("steps" if done >= config.steps else "max_timesteps")


def sink(config: Config, run_dir: Path, monitor: Monitor, stop: Stop) -> Callable[[Record], None]:
    """Where the records of all stages go: to the monitor, and to what acts upon them."""
    keep_few = keep_few_checkpoints(config, run_dir, monitor)
    watched = stop_when_diverged(keep_few, stop)
    patience = config.evaluate.patience
    if patience is None:
        return watched
    return stop_when_no_better(watched, monitor.valid_history, stop, patience, config.steps)


def keep_few_checkpoints(config: Config, run_dir: Path, monitor: Monitor) -> Callable[[Record], None]:
    """A sink that also removes old checkpoints once a newer one is complete; with patience the best one stays.

    While the loss of some stage is absurd none is removed: the last good one may be needed.
    """
    marks: dict[int, list[bool]] = {}  # by step: of each stage that has saved, whether its loss is absurd

    def note(record: Record) -> None:
        monitor(record)
        if record["kind"] != "checkpoint":
            return
        told = marks.setdefault(record["step"], [])
        told.append(record["absurd"])
        if len(told) == config.stages and not any(marks.pop(record["step"])):
            waits = config.evaluate.patience is not None
            spare = best_saved(run_dir, monitor.valid_history) if waits else None
            checkpoint.prune(run_dir, config.checkpoint.keep, spare)

    return note


def facts(config: Config, data: Data, rank_info: RankInfo | None = None) -> RunFacts:
    """What the summary says of a run's settings."""
    devices = devices_here(config, rank_info)
    backend = "nccl" if devices[0].startswith("cuda") else "gloo"
    return RunFacts(
        depth=config.depth.name,
        time=config.time.name,
        experiment=config.experiment,
        seed=config.seed,
        stages=config.stages,
        transport=backend if config.pipelined else config.transport.name,
        launch="external" if rank_info is not None else "threads" if config.threads else "processes",
        window=None if config.pipelined else config.depth.max_in_flight,
        lag=config.depth.lag,
        delay_ms=config.transport.delay_ms,
        data_name=data.name,
        data_sha256=data.sha256,
        devices=devices,  # of other machines nothing is known
        origin=origin_of(config),
    )


def _ending() -> list[signal.Signals]:
    """What tells a run to end, and what submitit sends before its time is over."""
    return [*ENDING, *([signal.SIGUSR2] if SUBMITTED in os.environ else [])]


@contextmanager
def stop_on_signals(stop: Stop, wake: Callable[[], None]) -> Iterator[None]:
    """The first signal ends a run in good order; a second one of Ctrl-C or SIGTERM ends it at once."""

    asked = 0

    def interrupt(signum: int, frame: object) -> None:
        nonlocal asked
        asked += signum in INSISTENT  # a job that is to make room hears of it by both ways at once
        if asked > 1:
            raise KeyboardInterrupt
        stop.because("interrupted")
        log.warning("stopping after the step under way, then saving; Ctrl-C again to stop without saving")
        wake()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [s for s in _ending() if signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
