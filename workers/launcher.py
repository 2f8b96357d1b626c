"""Start a run: settle the settings, choose threads or processes, keep what the run leaves behind."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dni.errors import ConfigError
from workers import checkpoint
from workers.assembly import Job
from workers.build import build_chains, device_of
from workers.child import CONFIG
from workers.config import Config, to_plain
from workers.cuts import refuse_large
from workers.external import run_first_stage, run_later_stage
from workers.inputs import refuse_large_inputs
from workers.journal import Record
from workers.links import credentials
from workers.monitor import Monitor
from workers.nccl_rules import check_gpus
from workers.pipeline_rules import check_devices
from workers.processes import Supervisor
from workers.resume import best_saved, hand_on, settle_resume, warn_of_versions
from workers.rules import check
from workers.seat import SUBMITTED, Seat
from workers.sources import Data, resolve
from workers.stopping import Stop, stop_when_no_better
from workers.summary import METRICS, RunFacts, write_summary
from workers.threads import run_threads
from workers.transports.address import socket_folder
from workers.versions import keep_versions

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]
    interrupted: bool


def launch(config: Config, run_dir: Path, seat: Seat | None = None) -> Result:
    """Run to the end, or to an interrupt. Raises ConfigError before anything starts; WorkerLost if a stage is lost.

    `seat`: of the first stage, where an engine has started all of them.
    """
    config, data = settle(config, seat)
    warn_of_versions(config)
    claim(run_dir, config)
    OmegaConf.save(OmegaConf.create(to_plain(config)), run_dir / CONFIG)
    keep_versions(run_dir)
    hand_on(config, run_dir)
    with Monitor(run_dir, config.stages, config.planned_steps) as monitor, socket_folder() as sockets:
        stop = Stop()
        job = Job(config, run_dir, sink(config, run_dir, monitor, stop), stop, data, sockets)
        run_stages(job, stop, seat)
        ends = monitor.summary_stages()
        summary = write_summary(
            run_dir, facts(config, data, seat), stages=ends, valid=monitor.valid_history,
            ended=why_ended(config, stop, min((end["step"] for end in ends), default=0)),
        )  # fmt: skip
    return Result(summary, summary["interrupted"])


def launch_later_stage(config: Config, run_dir: Path, seat: Seat) -> None:
    """Run another stage than the first, where an engine has started all of them. Raises as `launch`."""
    config, _ = settle(config, seat)
    run_later_stage(config, run_dir, seat)


def settle(config: Config, seat: Seat | None) -> tuple[Config, Data]:
    """Check the settings and fill in what they leave open. Raises ConfigError."""
    check(config)
    config, data = resolve(config)
    config = settle_resume(config)
    refuse_early(config, seat)
    return config, data


def run_stages(job: Job, stop: Stop, seat: Seat | None = None) -> None:
    """In threads or processes, as the settings say, or here the first one, until all stages have ended."""
    if seat is not None:
        with stop_on_signals(stop, lambda: None):
            return run_first_stage(job, seat)
    if job.config.threads:
        with stop_on_signals(stop, lambda: None):
            return run_threads(job)
    supervisor = Supervisor(job)
    with stop_on_signals(stop, supervisor.wake):
        supervisor.run()
    return None


def why_ended(config: Config, stop: Stop, done: int) -> str:
    """The setting that ended the run, or "interrupted"."""
    return stop.reason or ("steps" if done >= config.steps else "lane_steps")


def refuse_early(config: Config, seat: Seat | None = None) -> None:
    """Build what the stages will build, so that a bad cut or device is refused before anything starts."""
    credentials(config.transport)
    build_chains(config)
    refuse_large(config)
    refuse_large_inputs(config)
    devices = devices_here(config, seat)
    check_devices(config, devices)
    check_gpus(config, devices, first=0 if seat is None else seat.rank)


def devices_here(config: Config, seat: Seat | None) -> list[str]:
    """The devices of the stages from the first on, or of the one that is here. Raises ConfigError if one is missing."""
    stages = range(config.stages) if seat is None else [seat.rank]
    return [str(device_of(config, index)) for index in stages]


def claim(run_dir: Path, config: Config) -> None:
    """Make the run's folder. Raises ConfigError if another run is in it; one that goes on drops what came later."""
    used = (run_dir / METRICS).exists() or (run_dir / "checkpoints").exists()
    own = config.resume is not None and Path(config.resume).resolve() == run_dir.resolve()
    if used and not own:
        raise ConfigError(f"{run_dir} already holds a run: name another hydra.run.dir, or go on with it (resume=)")
    run_dir.mkdir(parents=True, exist_ok=True)
    for step in checkpoint.complete_steps(run_dir):
        if step > (config.resume_step or 0):
            shutil.rmtree(checkpoint.folder_of(run_dir, step))


def sink(config: Config, run_dir: Path, monitor: Monitor, stop: Stop) -> Callable[[Record], None]:
    """Where the records of all stages go: to the monitor, and to what acts upon them."""
    keep_few = keep_few_checkpoints(config, run_dir, monitor)
    patience = config.evaluate.patience
    if patience is None:
        return keep_few
    return stop_when_no_better(keep_few, monitor.valid_history, stop, patience, config.steps)


def keep_few_checkpoints(config: Config, run_dir: Path, monitor: Monitor) -> Callable[[Record], None]:
    """A sink that also removes old checkpoints once a newer one is complete; with patience the best one stays."""

    def note(record: Record) -> None:
        monitor(record)
        if record["kind"] == "checkpoint" and record["stage"] == 0:  # the first stage saves last
            waits = config.evaluate.patience is not None
            spare = best_saved(run_dir, monitor.valid_history) if waits else None
            checkpoint.prune(run_dir, config.checkpoint.keep, spare)

    return note


def facts(config: Config, data: Data, seat: Seat | None = None) -> RunFacts:
    """What the summary says of a run's settings."""
    devices = devices_here(config, seat)
    backend = "nccl" if devices[0].startswith("cuda") else "gloo"
    return RunFacts(
        depth=config.depth.method.name,
        time=config.time.method.name,
        experiment=config.experiment,
        seed=config.seed,
        stages=config.stages,
        transport=backend if config.pipelined else config.transport.kind.name,
        launch="external" if seat is not None else "threads" if config.threads else "processes",
        window=None if config.pipelined else config.depth.window,
        lag=config.depth.lag,
        delay_ms=config.transport.delay_ms,
        data_name=data.name,
        data_sha256=data.sha256,
        devices=devices,  # of other machines nothing is known
    )


def _ending() -> list[signal.Signals]:
    """What tells a run to end: Ctrl-C, a cluster engine's SIGTERM, and what submitit sends before its time is over."""
    return [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR2] if SUBMITTED in os.environ else [])]


@contextmanager
def stop_on_signals(stop: Stop, wake: Callable[[], None]) -> Iterator[None]:
    """The first signal ends a run in good order; a second one of Ctrl-C or SIGTERM ends it at once."""

    asked = 0

    def interrupt(signum: int, frame: object) -> None:
        nonlocal asked
        asked += signum in (
            signal.SIGINT,
            signal.SIGTERM,
        )  # a job that is to make room hears of it by both ways at once
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
