"""Run one process per stage on this machine, and supervise them."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from dni import errors
from dni.errors import ConfigError, DniError, EndedEarly, OutOfMemory, ThreadDied, WorkerLost
from workers.comm.transports.secret import VARIABLE
from workers.config.settings import Config
from workers.launch.rejoin.replacements import Replacements
from workers.launch.rejoin.spare import Spare
from workers.launch.restarts import Restarts
from workers.launch.stage_process import StageProcess
from workers.runtime.job import Job
from workers.storage.checkpoint import continue_with
from workers.system.channel import Message
from workers.system.errors import LESS, memory_kills
from workers.tracking.early_stopping import INTERRUPTED, Stop

log = logging.getLogger(__name__)

#: Seconds that the other stages have to report, after one has failed.
GRACE_S = 1.0

#: Seconds that processes have to exit, after all stages are done.
LEAVE_S = 15.0

#: For OpenMP, if stages have more torch threads than there are cores: idle threads sleep, because a spinning thread
#: keeps another stage from its core. With GNU's OpenMP (torch's on Linux) they spin for some microseconds first, which
#: bridges the gap between two operations.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}


@dataclass
class Failure:
    """A stage that ended with an error or was killed."""

    stage: int
    reason: str
    kind: type[DniError] = WorkerLost
    consequence: bool = False  # it failed only because another stage had


class Supervisor:
    """Start the stages, send each the address of its neighbour, pass on their records, and end them together.

    Call `run` in a thread that lives until it returns (see `StageProcess`).
    """

    def __init__(self, job: Job, restarts: Restarts | None = None) -> None:
        self.job, self.stages = job, job.config.stages
        self.children: list[StageProcess] = []
        self._replacements = Replacements(job.config, restarts or Restarts(0), lambda: Spare(self._environment()))
        self._addresses: dict[int, str] = {}  # at which the stages listen
        self.last_step = [job.start] * self.stages
        self.failures: list[Failure] = []
        self._messages: SimpleQueue[tuple[int, Message]] = SimpleQueue()
        self._running, self._done = set(range(self.stages)), set[int]()
        self._deadline: float | None = None  # when processes that still run are killed
        self._stop_sent = False
        self._memory_kills = memory_kills()

    def run(self) -> None:
        """Supervise until every stage has ended. Raises the error of the stage that failed first; WorkerLost if it was
        killed."""
        try:
            self.start()
            for index, message in self._until_ended():
                self._handle(index, message)
        finally:
            self.kill()
        if self.failures:
            raise self._error()

    def start(self) -> None:
        """Start one process and one log file per stage."""
        (self.job.run_dir / "logs").mkdir(exist_ok=True)
        for k in range(self.stages):
            self.children.append(self._started(k))
            self.children[k].follow(self._receive)

    def wake(self) -> None:
        """Forward the job's stop to the first stage. Safe in a signal handler."""
        self._receive(0, {"event": "stop"})

    def send(self, index: int, **message: Any) -> None:
        """Send one message to a stage; ignore a stage that is gone."""
        try:
            self.children[index].send(**message)
        except OSError:
            log.debug("stage %d is gone, not sent: %s", index, message)

    def kill(self) -> None:
        """Kill the processes that still run, and wait until they have exited."""
        self._replacements.close()
        for child in self.children:
            child.process.kill()
        for child in self.children:
            child.end()

    def _started(self, index: int, spare: Spare | None = None) -> StageProcess:
        run_dir, incarnation = self.job.run_dir, self._replacements.incarnations[index]
        arguments = str(run_dir), str(self.job.sockets or ""), str(incarnation)
        log_file = run_dir / "logs" / f"stage-{index}.log"
        return StageProcess(index, log_file, arguments, self._environment(), spare)

    def _environment(self) -> dict[str, str]:
        secret = {VARIABLE: self.job.secret.decode()} if self.job.secret else {}
        return environment(self.job.config) | secret

    def _receive(self, index: int, message: Message) -> None:
        self._messages.put((index, message))

    def _send_stop(self) -> None:
        if self.job.stop.is_set() and not self._stop_sent:
            self._stop_sent = True
            reason = self.job.stop.reason if isinstance(self.job.stop, Stop) else None
            self.send(0, stop=reason or INTERRUPTED)
            if self._deadline is None and 0 not in self._done:
                self._deadline = time.monotonic() + self.job.config.transport.timeout_s

    def _until_ended(self) -> Iterator[tuple[int, Message]]:
        """Yield messages until all stages have ended or `_deadline` has passed."""
        while self._running:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            try:
                yield self._messages.get(timeout=None if left is None else max(0.0, left))
            except Empty:
                return self._give_up()

    def _give_up(self) -> None:
        """Record what missed the deadline; all running processes are then killed."""
        if self._running <= self._done:
            log.warning("stage %s was done, but did not exit: killed", ", ".join(map(str, sorted(self._running))))
        elif not self.failures:
            timeout_s = self.job.config.transport.timeout_s
            self._fail(0, f"it did not answer a stop within {timeout_s:g} s; its process is stuck")

    def _handle(self, index: int, message: Message) -> None:
        match message["event"]:
            case "stop":
                self._send_stop()
            case "stopping":
                self._note_answer()
            case "listening":
                self._addresses[index] = message["address"]
                self.send(index - 1, peer=message["address"])
            case "going":
                self.last_step[index] = max(self.last_step[index], message["step"] - 1)
                if (record := self._replacements.going(index, message["step"])) is not None:
                    self.job.sink(record)
            case "store":
                for other in range(1, self.stages):
                    self.send(other, peer=message["address"])
            case "record":
                self.last_step[index] = max(self.last_step[index], message["record"]["step"])
                self.job.sink(message["record"])
                self._send_stop()  # the sink may have ended the run
            case "done":
                self._note_done(index)
            case "error":
                kind = kind_of(message["type"])
                unforeseen = kind in (DniError, ThreadDied)
                reason = f"{message['message']} (see {self.children[index].log})" if unforeseen else message["message"]
                self._fail(index, reason, kind, issubclass(kind, WorkerLost) and kind is not EndedEarly)
            case "exit":
                self._running -= {index}
                self._note_exit(index, message["code"])

    def _note_answer(self) -> None:
        """Drop the deadline: the first stage has answered a stop, or need not any more."""
        if not self.failures and not self._running <= self._done:
            self._deadline = None

    def _note_done(self, index: int) -> None:
        self._done.add(index)
        if 0 in self._done:
            self._note_answer()
        if self._running <= self._done and not self.failures:
            self._deadline = time.monotonic() + LEAVE_S

    def _note_exit(self, index: int, code: int) -> None:
        memory = code == -signal.SIGKILL and memory_kills() > self._memory_kills
        if not memory and self._replaced(index, code):
            return
        if memory:
            reason = f"its process was killed, most likely by the system for lack of memory: {LESS}"
            self._fail(index, reason, OutOfMemory)
        elif code < 0:
            self._fail(index, f"its process was killed by {signal_name(-code)}")
        elif all(failure.stage != index for failure in self.failures) and (code or index not in self._done):
            early = "" if index in self._done else " before its work was done"
            output = self.children[index].last_output()
            self._fail(
                index, f"its process ended with status {code}{early}; {'the end of its' if output else 'see its'} log "
                f"{self.children[index].log}{': ' if output else ''}{output}", EndedEarly,
            )  # fmt: skip

    def _replaced(self, index: int, code: int) -> bool:
        """Start a lost stage again while the others go on, if that may be; return whether it was."""
        if self.failures or index in self._done or self.job.stop.is_set():
            return False
        lost = self.children[index]
        if not self._replacements.spend(index, self.last_step[index], lost.ended_at):
            return False
        ended = f"was killed by {signal_name(-code)}" if code < 0 else f"ended with status {code}"
        log.warning("stage %d, after step %d: its process %s; it starts again alone", index, self.last_step[index],
                    ended)  # fmt: skip
        for neighbour in {index - 1, index + 1} & set(range(self.stages)):
            self.send(neighbour, lost=index)
        lost.end()
        self.children[index] = self._started(index, self._replacements.take_spare())
        self.children[index].follow(self._receive)
        self._running.add(index)
        if index + 1 in self._addresses:
            self.send(index, peer=self._addresses[index + 1])
        return True

    def _fail(self, index: int, reason: str, kind: type[DniError] = WorkerLost, consequence: bool = False) -> None:
        self.failures.append(Failure(index, reason, kind, consequence))
        self._deadline = time.monotonic() + GRACE_S

    def _error(self) -> DniError:
        cause = min(self.failures, key=lambda failure: failure.consequence)
        if issubclass(cause.kind, ConfigError):
            return cause.kind(f"stage {cause.stage}: {cause.reason}")
        done = self.last_step[cause.stage]
        return cause.kind(f"stage {cause.stage}, after step {done}: {cause.reason}; {continue_with(self.job.run_dir)}")


def environment(config: Config) -> dict[str, str]:
    """Return the environment of a stage's process."""
    crowded = config.stages * config.torch_threads > (os.cpu_count() or 1)
    chosen = PATIENT.keys() & os.environ.keys()  # set both or neither: GNU's prefers the count to the policy
    return (PATIENT if crowded and not chosen else {}) | os.environ


def signal_name(number: int) -> str:
    """Return a signal's name (SIGKILL for 9), or its number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def kind_of(name: str) -> type[DniError]:
    """Return the error class of a given name; DniError for an unknown one."""
    found = getattr(errors, name, None)
    return found if isinstance(found, type) and issubclass(found, DniError) else DniError
