"""Run `dni-train` as a process that tests can watch and kill, or compose its settings in this process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from workers.cli.arguments import begin_with
from workers.config.convert import from_any, register
from workers.config.own_options import choose_own_classes
from workers.config.settings import Config
from workers.storage import checkpoint

#: Settings of a run of seconds, on a small network.
SMALL = (
    "stages=2", "log_every=5", "model.units=8", "model.layers=1", "data.batch=4", "data.window=6", "data.sequence=18",
    "evaluate.every=null", "evaluate.windows=1", "launch.torch_threads=1", "predictor.depth.warmup=0",
)  # fmt: skip

LOCAL = ("transport=local", "launch=threads")


def settings(*overrides: str) -> Config:
    """Return the settings of `dni-train OVERRIDES`."""
    register()
    with initialize_config_module("workers.conf", version_base="1.3"):
        return from_any(OmegaConf.to_container(compose(begin_with(overrides)[0], choose_own_classes(overrides))))


@dataclass
class Finished:
    """Exit status and output lines of a finished command."""

    code: int
    out: list[str]
    err: list[str]


@dataclass
class Command:
    """A process `dni-train OVERRIDES`, started in `folder`. The context manager kills it and its children."""

    folder: Path
    overrides: tuple[str, ...]
    program: tuple[str, ...] = (sys.executable, "-m", "workers")
    environment: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Command:
        self.process = subprocess.Popen(
            [*self.program, *self.overrides],
            cwd=self.folder,
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        for pid in [self.process.pid, *children(self.process.pid)]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()

    def finish(self, within: float = 45) -> Finished:
        """Wait until the command has ended."""
        out, err = self.process.communicate(timeout=within)
        return Finished(self.process.returncode, out.splitlines(), err.splitlines())

    def until(self, holds: Callable[[], bool], what: str, within: float = 40) -> None:
        """Wait until `holds()`; fail if the command ends before."""
        wait_for(lambda: holds() or self.process.poll() is not None, what, within)
        assert holds(), f"the command ended before: {what}: {self.process.communicate()}"

    def run_dir(self) -> Path:
        """Return the only run folder in the command's folder."""
        (found,) = (path.parent for path in self.folder.glob("outputs/*/*/config.yaml"))
        return found

    def stages(self) -> dict[int, int]:
        """Return the process of each stage: index -> pid."""
        found = {stage_of(pid): pid for pid in children(self.process.pid)}
        return {stage: pid for stage, pid in found.items() if stage is not None}

    def until_trained(self, step: int) -> None:
        """Wait for a training record of `step` or later."""
        self.until(lambda: last_step(self.folder) >= step, f"step {step}")

    def until_saved(self) -> None:
        """Wait for a complete checkpoint."""
        self.until(
            lambda: any(checkpoint.complete_steps(run) for run in self.folder.glob("outputs/*/*")), "a checkpoint"
        )


def run(folder: Path, *overrides: str, within: float = 45) -> Finished:
    """Run `dni-train OVERRIDES` in a folder until it ends."""
    with Command(folder, overrides) as command:
        return command.finish(within)


def summary_of(run_dir: Path) -> dict[str, Any]:
    """Return the summary of a run."""
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text())
    return summary


def trained_steps(run_dir: Path, stage: int) -> list[int]:
    """Return the steps of a stage's training records, in the order of the file."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [r["step"] for r in records if r["kind"] == "train" and r["stage"] == stage]


def last_step(folder: Path) -> int:
    """Return the newest step in any `metrics.jsonl` of the runs in a folder; 0 if there is none."""
    lines = [line for file in folder.glob("outputs/*/*/metrics.jsonl") for line in file.read_text().splitlines(True)]
    steps = [int(line.split('"step": ')[1].split(",")[0]) for line in lines if line.endswith("\n")]
    return max(steps, default=0)


def wait_for(holds: Callable[[], bool], what: str, within: float) -> None:
    """Poll until `holds()`; fail after `within` seconds. `what` names the condition in the message."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Return the child processes, including zombies."""
    try:
        return sorted(child.pid for child in psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []


def alive(pid: int) -> bool:
    """Return whether the process exists and has not ended."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def stage_of(pid: int) -> int | None:
    """Return the index of the stage that a process runs, by the log that takes its output; None: of none."""
    try:
        output = next((Path(file.path) for file in psutil.Process(pid).open_files() if file.fd == 1), None)
    except psutil.Error:
        return None
    return int(output.stem.removeprefix("stage-")) if output and output.stem.startswith("stage-") else None


def command_line(pid: int) -> list[str]:
    """Return the command line of a process."""
    return psutil.Process(pid).cmdline()
