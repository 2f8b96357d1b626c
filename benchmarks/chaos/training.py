"""A run of `dni-train` in four processes, as its disturber sees it: processes, proxies, and records as they come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.chaos.proxy import Switchboard
from workers.tracking.run import METRICS

STAGES, IN_FLIGHT = 4, 8
HEARTBEAT_S = 2.0  # a neighbour that is silent for longer is lost
EVERY = 60  # steps between two checkpoints

#: A character LSTM on the text that comes with Python. Emulated passes stand for accelerators of the stages' own.
SETTINGS = (
    f"stages={STAGES}", "model.units=64", "model.layers=3", "model.split_points=[lstm2,lstm3,softmax]",
    "data.batch=8", "data.sequence=null", "depth=synthetic", "time=truncated", f"depth.max_in_flight={IN_FLIGHT}",
    "emulate.forward_ms=15", "emulate.backward_ms=30", "log_every=1", "tensorboard=false",
    "evaluate.windows=40", "launch=processes", "launch.torch_threads=1", "launch.restarts=1000",
    f"checkpoint.every={EVERY}", "checkpoint.keep=3",
)  # fmt: skip
LINKS = (
    "transport=benchmarks.chaos.transport.Proxied", "transport.bind=127.0.0.1:0", "transport.checksum=true",
    f"transport.keepalive_s={HEARTBEAT_S}", "transport.reconnect_s=120", "transport.timeout_s=300",
)  # fmt: skip

_POLL_S = 0.02
_ROOT = Path(__file__).parents[2]


class Ended(Exception):
    """The command has ended; the message is its last line."""


class Training:
    """One run, started in `folder`, which is emptied first. Times are of `time.monotonic`.

    Args:
        folder: of the run.
        overrides: settings beside those above.
    """

    def __init__(self, folder: Path, *overrides: str) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.folder, self.overrides = folder.absolute(), overrides
        self.board = Switchboard(STAGES)
        self.seen: dict[int, list[tuple[float, int]]] = {stage: [] for stage in range(STAGES)}  #: (time, step)
        self.records: list[dict[str, Any]] = []  #: all but those of training steps, with the time `at` which they came
        self.families: dict[int, psutil.Process] = {}  #: every process of a stage so far, by number
        self.orphaned = 0  #: processes of stages that outlived the command
        self.start()
        threading.Thread(target=self._follow, name="records", daemon=True).start()

    def start(self) -> None:
        """Start the command; it goes on from its newest checkpoint if the folder has one."""
        again = [f"resume={self.folder}"] if (self.folder / METRICS).is_file() else []
        chosen = (*SETTINGS, *LINKS, f"transport.switchboard={self.board.address}", *self.overrides)
        command = [sys.executable, "-m", "workers", *chosen, *again, f"hydra.run.dir={self.folder}"]
        path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
        with (self.folder / "command.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": path}
            )

    def step(self, stage: int) -> int:
        """Return the newest training step of a stage; 0 before the first."""
        return self.seen[stage][-1][1] if self.seen[stage] else 0

    def newest(self) -> int:
        """Return the newest training step of any stage."""
        return max(self.step(stage) for stage in self.seen)

    def steps_between(self, stage: int, start: float, end: float) -> int:
        """Return how many training steps of a stage were recorded between two times."""
        return sum(start < at <= end for at, _ in self.seen[stage])

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the records of a kind so far."""
        return [record for record in self.records if record["kind"] == kind]

    def stages(self) -> dict[int, psutil.Process]:
        """Return the process of every stage that runs."""
        found = {}
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                with suppress(psutil.Error, ValueError, StopIteration):  # it has just ended, or is no stage yet
                    log = next(file.path for file in child.open_files() if file.fd == 1)
                    found[int(Path(log).stem.removeprefix("stage-"))] = child
        self.families |= {process.pid: process for process in found.values()}
        return found

    def wait(self, seconds: float) -> None:
        """Wait. Raises Ended if the command ends before."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
            raise Ended(self.last_line())

    def until_step(self, step: int, within_s: float, *, stage: int = STAGES - 1) -> float | None:
        """Wait until a stage has trained a step after `step`; return when, or None after too long. Raises Ended."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            newer = next((at for at, number in self.seen[stage][-500:] if number > step), None)
            if newer is not None:
                return newer
            self.wait(_POLL_S)
        return None

    def last_line(self) -> str:
        """Return the last line that the command has printed."""
        lines = (self.folder / "command.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def orphans(self) -> int:
        """Return how many processes of stages outlive the command; end them."""
        found = 0
        for process in self.families.values():
            with suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    found += 1
        return found

    def close(self) -> None:
        """End the command and the proxies."""
        self.stages()
        self.process.kill()
        self.process.wait()
        self.board.close()

    def _follow(self) -> None:
        """Read the records as they are written, until the program ends."""
        path, place, rest = self.folder / METRICS, 0, b""
        while True:
            time.sleep(_POLL_S)
            if not path.is_file():
                continue
            with path.open("rb") as file:
                place = min(place, file.seek(0, os.SEEK_END))  # a run that starts again drops its newest records
                file.seek(place)
                data = file.read()
            place += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._note(json.loads(line), time.monotonic())

    def _note(self, record: dict[str, Any], now: float) -> None:
        if record["kind"] == "train":
            self.seen[record["stage"]].append((now, record["step"]))
        else:
            self.records.append({**record, "at": now})
