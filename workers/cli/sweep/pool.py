"""Run the processes of a sweep, a number at a time, and pass signals on to them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from dni.errors import ConfigError, DivergedError
from workers.cli.sweep.outcome import Outcome, State
from workers.cli.sweep.progress import SweepProgress, newest_step
from workers.cli.sweep.run_process import Task
from workers.cli.sweep.server import Server
from workers.system.json_logs import logged_text
from workers.system.signals import ENDING

POLL_S = 0.1  #: longest time between two looks at signals and records

_PREFIX = "dni-train: "
_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Job:
    """A run that is to be started: `task` is asked for just before."""

    number: int
    words: tuple[str, ...]
    run_dir: Path
    steps: int  #: planned steps that are left
    start: int  #: steps that the run has taken before
    task: Callable[[], Task]

    @property
    def label(self) -> str:
        """Folder and settings, for the display."""
        return f"{self.run_dir.name} {' '.join(self.words)}"

    def outcome(self, state: State, line: str = "", seconds: float | None = None) -> Outcome:
        """Return the outcome of this run."""
        return Outcome(self.number, self.words, self.run_dir, state, line, seconds)


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    console: Path
    begun: float = field(default_factory=time.monotonic)
    told: int = 0  #: signals that were passed on

    def tell(self, received: Sequence[int]) -> None:
        """Pass on new signals, once the process can take them."""
        if self.told < len(received) and self.console.exists():
            for number in received[self.told :]:
                with suppress(OSError):  # it may just have ended
                    os.kill(self.process.pid or 0, number)
            self.told = len(received)

    def end(self) -> Outcome:
        self.process.join()
        state, line = _state(self.process.exitcode or 0, last_line(self.console))
        self.process.close()
        return self.job.outcome(state, line, time.monotonic() - self.begun)


def run_jobs(server: Server, jobs: Sequence[Job], at_once: int, progress: SweepProgress) -> list[Outcome]:
    """Run every job, `at_once` at a time. After the first signal no more are started, and the running ones save.

    Raises OSError if a process cannot be started.
    """
    waiting, running, outcomes = deque(jobs), list[_Running](), list[Outcome]()
    with signals_received() as received:
        while running or (waiting and not received):
            while waiting and len(running) < at_once and not received:
                job = waiting.popleft()
                try:
                    running.append(_start(server, job))
                except ConfigError as error:  # another process writes into its folder
                    outcomes.append(job.outcome(State.failed, str(error)))
                    progress.ended(outcomes[-1], job.steps)
            ended = wait([each.process.sentinel for each in running], POLL_S)
            for each in [one for one in running if one.process.sentinel in ended]:
                running.remove(each)
                outcomes.append(each.end())
                progress.ended(outcomes[-1], each.job.steps)
            for each in running:
                each.tell(received)
            progress.show({each.job.label: _steps(each.job) for each in running})
    return [*outcomes, *(job.outcome(State.waiting) for job in waiting)]


@contextmanager
def signals_received() -> Iterator[list[int]]:
    """Collect the signals that end a run instead of ending."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handled = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda signum, frame: received.append(signum)) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(console: Path) -> str:
    """Return the last line of a command's message, or else of its output."""
    try:
        with console.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL_BYTES))
            lines = [logged_text(line) for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    said = [line.removeprefix(_PREFIX) for line in lines if line.startswith(_PREFIX)]
    return (said or lines or [""])[-1]


def _start(server: Server, job: Job) -> _Running:
    task = job.task()
    console = Path(task.console)
    console.unlink(missing_ok=True)
    return _Running(job, server.start(task), console)


def _state(code: int, line: str) -> tuple[State, str]:
    if code == 0:
        return State.finished, ""
    if code == 130:
        return State.interrupted, line.partition("; resume with")[0]
    if code < 0:
        return State.failed, f"its process was ended by {signal.Signals(-code).name}"
    return State.diverged if line.startswith(DivergedError.__name__) else State.failed, line


def _steps(job: Job) -> tuple[int, int]:
    return min(job.steps, max(0, newest_step(job.run_dir) - job.start)), job.steps
