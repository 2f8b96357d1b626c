"""Start a run: settle the settings, choose threads or processes, keep what the run leaves behind."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from omegaconf import OmegaConf

from dni.errors import ConfigError, ResumeError
from workers import checkpoint
from workers.assembly import Job
from workers.build import build_chains, device_of
from workers.child import CONFIG
from workers.config import Config, from_any, to_plain
from workers.journal import Record
from workers.monitor import Monitor
from workers.processes import Supervisor
from workers.rules import check
from workers.sources import Data, resolve
from workers.summary import METRICS, RunFacts, read_metrics, write_summary
from workers.threads import run_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a run came to."""

    summary: dict[str, Any]
    interrupted: bool


def launch(config: Config, run_dir: Path) -> Result:
    """Run to the end, or to an interrupt. Raises ConfigError before anything starts; WorkerLost if a stage is lost."""
    check(config)
    config, data = resolve(config)
    config = settle_resume(config)
    refuse_early(config)
    claim(run_dir, config)
    OmegaConf.save(OmegaConf.create(to_plain(config)), run_dir / CONFIG)
    copy_metrics(config, run_dir)
    with Monitor(run_dir, config.stages, config.planned_steps) as monitor:
        job = Job(config, run_dir, keep_few_checkpoints(config, run_dir, monitor), Event(), data)
        run_stages(job)
        interrupted = job.stop.is_set()
        summary = write_summary(
            run_dir, facts(config, data), stages=monitor.summary_stages(), valid=monitor.valid_history,
            interrupted=interrupted,
        )  # fmt: skip
    return Result(summary, interrupted)


def run_stages(job: Job) -> None:
    """In threads or processes, as the settings say, until all stages have ended."""
    if job.config.threads:
        with stop_on_signals(job.stop, lambda: None):
            return run_threads(job)
    supervisor = Supervisor(job)
    with stop_on_signals(job.stop, supervisor.wake):
        supervisor.run()
    return None


def settle_resume(config: Config) -> Config:
    """Name the checkpoint to go on from, and refuse a run that is not the same. Raises ResumeError."""
    if config.resume is None:
        return config
    folder = Path(config.resume)
    if not (folder / CONFIG).is_file():
        raise ResumeError(f"resume={folder}: no {CONFIG} in it; give the folder of a run")
    complete = checkpoint.complete_steps(folder)
    step = complete[-1] if complete and config.resume_step is None else config.resume_step
    if step is None:
        raise ResumeError(f"resume={folder}: no checkpoint in it is complete; start the run anew, without resume")
    if step not in complete:
        raise ResumeError(f"resume={folder}: no complete checkpoint of step {step}; complete are: {complete or 'none'}")
    before = replace(from_any(folder / CONFIG), resume=None)
    changed = differences(to_plain(before), to_plain(config))
    if changed:
        raise ResumeError(f"resume={folder} was another run: {', '.join(changed)}; leave these settings as they were")
    if step >= config.steps:
        raise ResumeError(f"resume={folder} has already taken {step} steps: set steps above that, not {config.steps}")
    return replace(config, resume=str(folder.absolute()), resume_step=step)


#: Sections that may not change when a run goes on.
AGREED = ("seed", "stages", "model", "data", "depth", "time", "predictor", "optimizer")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Settings of the agreed sections that differ, as `key was old, now new`."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in old if key.split(".")[0] in AGREED]
    return [f"{key} was {old[key]}, now {new.get(key)}" for key in keys if old[key] != new.get(key)]


def refuse_early(config: Config) -> None:
    """Build what the stages will build, so that a bad cut or device is refused before anything starts."""
    build_chains(config)
    for index in range(config.stages):
        device_of(config, index)


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


def copy_metrics(config: Config, run_dir: Path) -> None:
    """A resumed run's folder begins with the records of the steps it does not repeat."""
    if config.resume is None or config.resume_step is None:
        return
    source = Path(config.resume) / METRICS
    before = read_metrics(source) if source.is_file() else []  # wholly, for it may be the file written to
    kept = [json.dumps(record) + "\n" for record in before if record["step"] <= config.resume_step]
    (run_dir / METRICS).write_text("".join(kept))


def keep_few_checkpoints(config: Config, run_dir: Path, sink: Callable[[Record], None]) -> Callable[[Record], None]:
    """A sink that also removes old checkpoints once a newer one is complete."""

    def note(record: Record) -> None:
        sink(record)
        if record["kind"] == "checkpoint" and record["stage"] == 0:  # the first stage saves last
            checkpoint.prune(run_dir, config.checkpoint.keep)

    return note


def facts(config: Config, data: Data) -> RunFacts:
    """What the summary says of a run's settings."""
    return RunFacts(
        depth=config.depth.method.name,
        time=config.time.method.name,
        experiment=config.experiment,
        seed=config.seed,
        stages=config.stages,
        transport=config.transport.kind.name,
        launch="threads" if config.threads else "processes",
        window=config.depth.window,
        lag=config.depth.lag,
        delay_ms=config.transport.delay_ms,
        data_name=data.name,
        data_sha256=data.sha256,
        devices=[str(device_of(config, k)) for k in range(config.stages)],
    )


@contextmanager
def stop_on_signals(stop: Event, wake: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C, or the SIGTERM that cluster engines send, ends a run in good order; the second one ends it at once."""

    def interrupt(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        log.warning("stopping after the step under way, then saving; Ctrl-C again to stop without saving")
        wake()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
