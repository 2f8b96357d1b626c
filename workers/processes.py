"""One process per stage on this machine, and the small supervisor that watches them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from dni import errors
from dni.errors import ConfigError, DniError, WorkerLost
from workers import checkpoint
from workers.assembly import Job
from workers.config import Config
from workers.shell import resume_command

log = logging.getLogger(__name__)

#: After one stage has failed, how long the others may take to say what they saw.
GRACE_S = 1.0

#: For OpenMP, where stages have more torch threads than there are cores: sleep when there is nothing to do, for whoever
#: waits in a loop keeps another stage from its core; GNU's (torch's on Linux) after some microseconds, which are enough
#: from one operation to the next.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

Message = dict[str, Any]


@dataclass
class Failure:
    """How a stage ended that should not have."""

    stage: int
    reason: str
    kind: type[DniError] = WorkerLost
    consequence: bool = False  # it only saw another stage go


class Supervisor:
    """Starts the stages, tells each its neighbour's address, passes on their records, and ends them together."""

    def __init__(self, job: Job) -> None:
        self.job, self.stages = job, job.config.stages
        self.children: list[subprocess.Popen[str]] = []
        self.last_step = [job.start] * self.stages
        self.failures: list[Failure] = []
        self._messages: SimpleQueue[tuple[int, Message]] = SimpleQueue()
        self._running = self.stages
        self._told = False

    def run(self) -> None:
        """Until every stage has ended. Raises the error of the stage that failed first, WorkerLost if it was killed."""
        try:
            self.start()
            for index, message in self._until_ended():
                self._handle(index, message)
        finally:
            self.kill()
        if self.failures:
            raise self._error()

    def start(self) -> None:
        """Start one process per stage, each with its log file."""
        self._log(0).parent.mkdir(exist_ok=True)
        for k in range(self.stages):
            with self._log(k).open("a") as file:
                child = subprocess.Popen(
                    [sys.executable, "-m", "workers.child", str(self.job.run_dir), str(self.job.sockets or ""), str(k)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                    env=environment(self.job.config),
                    start_new_session=True,  # Ctrl-C reaches the supervisor alone
                )  # fmt: skip
            self.children.append(child)
            threading.Thread(target=self._read, args=(k, child), name=f"read-{k}", daemon=True).start()

    def wake(self) -> None:
        """After the job's stop has been set: have the first stage told. Safe in a signal handler."""
        self._messages.put((0, {"event": "stop"}))

    def _tell_stop(self) -> None:
        if self.job.stop.is_set() and not self._told:
            self._told = True
            self.tell(0, stop=True)

    def tell(self, index: int, **message: Any) -> None:
        """Send one line to a stage; a stage that is gone hears nothing."""
        stdin = self.children[index].stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        except (BrokenPipeError, ValueError):
            log.debug("stage %d is gone and was not told %s", index, message)

    def kill(self) -> None:
        """End whatever still runs, and wait until it has."""
        for child in self.children:
            if child.poll() is None:
                child.kill()
        for child in self.children:
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None and pipe is child.stdin:
                    _close_quietly(pipe)

    def _read(self, index: int, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                if line.endswith("\n"):  # a stage that is killed may leave half a line
                    self._messages.put((index, json.loads(line)))
        self._messages.put((index, {"event": "exit", "code": child.wait()}))

    def _until_ended(self) -> Iterator[tuple[int, Message]]:
        """Messages until all stages have ended, or GRACE_S after the first failure."""
        while self._running:
            try:
                yield self._messages.get(timeout=GRACE_S if self.failures else None)
            except Empty:
                return

    def _handle(self, index: int, message: Message) -> None:
        match message["event"]:
            case "stop":
                self._tell_stop()
            case "listening":
                self.tell(index - 1, peer=message["address"])
            case "store":
                for other in range(1, self.stages):
                    self.tell(other, peer=message["address"])
            case "record":
                self.last_step[index] = max(self.last_step[index], message["record"]["step"])
                self.job.sink(message["record"])
                self._tell_stop()  # what the record says may have ended the run
            case "error":
                kind = kind_of(message["type"])
                reason = (
                    message["message"] if kind is not DniError else f"{message['message']} (see {self._log(index)})"
                )
                self.failures.append(Failure(index, reason, kind, issubclass(kind, WorkerLost)))
            case "exit":
                self._running -= 1
                self._note_exit(index, message["code"])

    def _note_exit(self, index: int, code: int) -> None:
        if code < 0:
            name = signal.Signals(-code).name
            self.failures.append(Failure(index, f"its process was killed by {name}"))
        elif code and all(failure.stage != index for failure in self.failures):
            self.failures.append(Failure(index, f"its process ended with status {code} (see {self._log(index)})"))

    def _log(self, index: int) -> Path:
        return self.job.run_dir / "logs" / f"stage-{index}.log"

    def _error(self) -> DniError:
        cause = min(self.failures, key=lambda failure: failure.consequence)
        if issubclass(cause.kind, ConfigError):
            return cause.kind(f"stage {cause.stage}: {cause.reason}")
        done = self.last_step[cause.stage]
        return cause.kind(f"stage {cause.stage}, after step {done}: {cause.reason}; {continue_with(self.job.run_dir)}")


def environment(config: Config) -> dict[str, str]:
    """What a stage's process finds set."""
    crowded = config.stages * config.torch_threads > (os.cpu_count() or 1)
    chosen = PATIENT.keys() & os.environ.keys()  # together or not at all: GNU's takes the number before the policy
    return (PATIENT if crowded and not chosen else {}) | os.environ


def kind_of(name: str) -> type[DniError]:
    """The class of an error that a stage reported by name; DniError for one that was not foreseen."""
    found = getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, DniError) else DniError


def continue_with(run_dir: Path) -> str:
    """What is left of a broken run, and what to type to go on."""
    steps = checkpoint.complete_steps(run_dir)
    if not steps:
        return "no complete checkpoint had been written (checkpoint.every sets how often)"
    last = checkpoint.folder_of(run_dir, steps[-1])
    return f"last complete checkpoint: {last}; go on with: {resume_command(run_dir)}"


def _close_quietly(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        log.debug("a stage was gone before its pipe was closed")
