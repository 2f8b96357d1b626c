"""Start a run: check the settings, run the stages in threads or processes, and write the run's files."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dni.data.base import Data
from dni.errors import DniError, WorkerLost
from workers.build.provenance import origin_of
from workers.comm.address import socket_folder
from workers.comm.transports.secret import secret_of_run
from workers.config.convert import to_plain
from workers.config.schema import LogFormat
from workers.config.settings import Config
from workers.launch.accept import Accepted, accept, devices_here
from workers.launch.cluster_environment import SUBMITTED, RankInfo
from workers.launch.external import leave_before, run_first_stage, run_later_stage
from workers.launch.record_rules import refuse_diverged, sink
from workers.launch.restarts import Restarts
from workers.launch.resume_hint import refusals_with_resume_hint, with_resume_hint
from workers.launch.supervisor import Supervisor
from workers.launch.threads import run_threads
from workers.resume.resume import copy_earlier_records, warn_of_versions
from workers.runtime.job import Job
from workers.runtime.recorder import Record
from workers.runtime.timeline.trace import write_trace
from workers.storage import checkpoint, vocabulary
from workers.storage.record import write_record
from workers.storage.versions import keep_versions
from workers.system.errors import about, refusals_at_the_door
from workers.system.json_logs import LoggedLines
from workers.system.signals import ENDING, insists
from workers.tracking.early_stopping import INTERRUPTED, Stop
from workers.tracking.loggers.base import LoggedRun
from workers.tracking.loggers.build import loggers_of
from workers.tracking.monitor import Monitor
from workers.tracking.prometheus import Metrics, serving
from workers.tracking.run import SUMMARY
from workers.tracking.sittings import begin_sitting, totals
from workers.tracking.summary import RunFacts, write_summary
from workers.tracking.tensorboard import keep_settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The summary of a run, and whether a signal ended it early."""

    summary: dict[str, Any]
    interrupted: bool


def launch(config: Config, run_dir: Path, rank_info: RankInfo | None = None) -> Result:
    """Train until the end or an interrupt.

    `rank_info` is the first stage's rank, if an outer engine started all stages.

    Raises ConfigError before anything starts, WorkerLost if a stage is lost, and DivergedError, after the summary is
    written, if the run has diverged.
    """
    with accept(config, run_dir, rank_info) as accepted:
        return run(accepted)


def run(accepted: Accepted) -> Result:
    """Run all stages of an accepted run, or its first stage; start again as often as allowed if a stage is lost.

    Raises as `launch`.
    """
    restarts, tracking = Restarts(accepted.config.launch.restarts), accepted.config.tracking
    with serving(accepted.run_dir.name, tracking.prometheus_port, tracking.prometheus_address) as metrics:
        while True:
            stop = Stop()
            try:
                return run_once(accepted, stop, monitor_of(accepted, metrics), restarts)
            except WorkerLost as error:
                if stop.is_set():
                    raise
                accepted = restarts.after(accepted, error)


def run_once(accepted: Accepted, stop: Stop, watched: Monitor, restarts: Restarts) -> Result:
    """Run all stages, or the first one, until the end or until a stage is lost. Raises as `launch`."""
    with refusals_at_the_door():
        known, begun = prepare(accepted)
    with refusals_with_resume_hint(accepted.run_dir):
        summary = follow(accepted, known, begun, stop, watched, restarts)
    refuse_diverged(accepted.config, accepted.run_dir, stop)
    return Result(summary, summary["interrupted"])


def prepare(accepted: Accepted) -> tuple[RunFacts, Record]:
    """Write the settings and the earlier records into the run's folder.

    Returns the facts of the settings for the summary, and the record that begins this sitting.
    """
    config, run_dir = accepted.config, accepted.run_dir
    known = facts(config, accepted.data, accepted.rank_info)
    warn_of_versions(config)
    checkpoint.drop_after(run_dir, config.resume_step or 0)
    write_record(run_dir, accepted.recorded)
    keep_versions(run_dir)
    vocabulary.save(run_dir, accepted.data.characters, accepted.data.tokenizer)
    begun = begin_sitting(config)  # before `copy_earlier_records` drops the records of repeated steps
    copy_earlier_records(config, run_dir)
    return known, begun


def monitor_of(accepted: Accepted, metrics: Metrics | None) -> Monitor:
    """Return the monitor of a run, as its settings say."""
    config, tracking = accepted.config, accepted.config.tracking
    told = LoggedRun(accepted.run_dir, config.stages, tracking.project, to_plain(config))
    return Monitor(
        accepted.run_dir, config.stages, config.planned_steps, tensorboard=config.tensorboard, metrics=metrics,
        loggers=loggers_of(tracking.loggers, told),
        console=Console(file=LoggedLines()) if tracking.log_format is LogFormat.json else None,
    )  # fmt: skip


def follow(
    accepted: Accepted, known: RunFacts, begun: Record, stop: Stop, watched: Monitor, restarts: Restarts
) -> dict[str, Any]:
    """Run the stages, record their reports, and return the summary."""
    config, run_dir = accepted.config, accepted.run_dir
    with watched as monitor, socket_folder() as sockets:
        monitor(begun)
        secret = secret_of_run(starts_all=accepted.rank_info is None)
        job = Job(config, run_dir, sink(config, run_dir, monitor, stop), stop, accepted.data, sockets, secret)
        run_until_end(job, stop, accepted.rank_info, restarts)
        if config.profile:
            write_trace(run_dir, config.stages)
        ends = monitor.summary_stages()
        with about(run_dir / SUMMARY):
            summary = write_summary(
                run_dir, known, stages=ends, valid=monitor.valid_history, restarts=restarts.count,
                ended=why_ended(config, stop, min((end["step"] for end in ends), default=0)),
                sittings=totals(monitor.sittings),
            )  # fmt: skip
    if config.tensorboard:
        keep_settings(run_dir, to_plain(config), summary)
    return summary


def launch_later_stage(config: Config, run_dir: Path, rank_info: RankInfo) -> None:
    """Run a stage other than the first, if an outer engine started all stages. Raises as `launch`."""
    with accept(config, run_dir, rank_info) as accepted, refusals_with_resume_hint(run_dir):
        run_later_stage(accepted.config, run_dir, rank_info)


def run_until_end(job: Job, stop: Stop, rank_info: RankInfo | None, restarts: Restarts) -> None:
    """Run the stages; ignore the loss of stages after a divergence, which is reported with the summary."""
    try:
        run_stages(job, stop, rank_info, restarts)
    except DniError:
        if stop.diverged is None:
            raise


def run_stages(job: Job, stop: Stop, rank_info: RankInfo | None, restarts: Restarts) -> None:
    """Run the stages in threads, in processes, or only the first one here, until all stages have ended."""
    if rank_info is not None:
        linked = threading.Event()
        with stop_on_signals(stop, partial(leave_before, linked)):
            return run_first_stage(job, rank_info, linked)
    if job.config.threads:
        with stop_on_signals(stop, lambda: None), with_resume_hint(job.run_dir):
            return run_threads(job)
    supervisor = Supervisor(job, restarts)
    with stop_on_signals(stop, supervisor.wake):
        supervisor.run()
    return None


def why_ended(config: Config, stop: Stop, done: int) -> str:
    """Return the setting that ended the run, "interrupted" or "diverged"."""
    return "diverged" if stop.diverged else stop.reason or ("steps" if done >= config.steps else "max_timesteps")


def facts(config: Config, data: Data, rank_info: RankInfo | None = None) -> RunFacts:
    """Return the facts of a run's settings for the summary."""
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
        devices=devices,  # only this machine's are known
        origin=origin_of(config),
    )


def _ending() -> list[signal.Signals]:
    """Return the signals that end a run, with the one that submitit sends before its time limit."""
    return [*ENDING, *([signal.SIGUSR2] if SUBMITTED in os.environ else [])]


@contextmanager
def stop_on_signals(stop: Stop, wake: Callable[[], None]) -> Iterator[None]:
    """End the run in good order at the first signal; end it at once if a further one insists."""

    first_at: float | None = None

    def interrupt(signum: int, frame: object) -> None:
        nonlocal first_at
        if first_at is not None and insists(signum, time.monotonic() - first_at):
            raise KeyboardInterrupt
        if signum in (signal.SIGINT, signal.SIGTERM):
            first_at = first_at or time.monotonic()
        stop.because(INTERRUPTED)
        log.warning("stopping after this step, then saving a checkpoint; Ctrl-C again to stop without saving")
        wake()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handled = [s for s in _ending() if signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
