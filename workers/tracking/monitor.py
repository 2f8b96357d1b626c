"""Follow a run: write `metrics.jsonl` and TensorBoard events and show a live table, from the records of its stages.

The calling thread writes a record to `metrics.jsonl`. A separate thread behind a bounded queue shows it, so a slow
terminal never blocks a stage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console

from workers.system.background import background
from workers.system.errors import about
from workers.system.json_logs import note_step
from workers.tracking.display import IsolatedSink
from workers.tracking.prometheus import Metrics
from workers.tracking.run import METRICS, read_metrics
from workers.tracking.sittings import last_stages
from workers.tracking.summary import finite
from workers.tracking.tensorboard import TensorBoardWriter
from workers.tracking.terminal import REFRESH_S, Record, Screen

log = logging.getLogger(__name__)

QUEUE_LIMIT = 4096  #: records waiting to be shown; further ones are written, but not shown
WRITTEN = ("train", "valid", "own", "probe", "sitting", "diverged", "rejoined")  #: kinds of records in `metrics.jsonl`
CLOSE_S = 10.0  #: longest wait for the display at the end of a run


class Monitor:
    """Sink of the records of all stages: a context manager, callable from any thread inside its block.

    Args:
        run_dir: the run's folder
        stages: K
        steps: the last step of the run
        live: redraw a table in place instead of printing lines; default: on a terminal
        console: where to print; default: standard output
        tensorboard: write TensorBoard events
        metrics: figures for Prometheus; they get every record, too
        loggers: further displays, which get every record

    The records of a resumed run in `metrics.jsonl` count as its own. Entering raises ConfigError if one is damaged.
    """

    def __init__(
        self,
        run_dir: str | Path,
        stages: int,
        steps: int,
        *,
        live: bool | None = None,
        console: Console | None = None,
        tensorboard: bool = True,
        metrics: Metrics | None = None,
        loggers: Sequence[IsolatedSink] = (),
    ) -> None:
        self.run_dir = Path(run_dir)
        self._stages, self._tensorboard, self._metrics, self._loggers = stages, tensorboard, metrics, loggers
        self._earlier: list[dict[str, Any]] = []
        self.valid_history: list[dict[str, Any]] = []
        self.sittings: list[dict[str, Any]] = []
        self._ends: dict[int, dict[str, Any]] = {}
        self._probes: dict[int, dict[str, Any]] = {}
        self._rejoined: Counter[int] = Counter()  # by stage
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUE_LIMIT)
        self._full = False
        self._screen = Screen(console or Console(), stages, steps, live)
        self._broken: Exception | None = None  # the error that ended the display thread
        self._thread = background("monitor", self._display, self._died)

    def __enter__(self) -> Monitor:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with about(self.run_dir / METRICS):
            earlier = self._earlier = _earlier_records(self.run_dir / METRICS)
        self.valid_history = [record for record in earlier if record.get("kind") == "valid"]
        self.sittings = [record for record in earlier if record.get("kind") == "sitting"]
        self._rejoined.update(record["stage"] for record in earlier if record.get("kind") == "rejoined")
        alike = [
            record
            for record, last in zip(earlier, last_stages(earlier), strict=True)
            if last in (None, self._stages - 1)
        ]
        self._probes = {record["stage"]: record for record in alike if record.get("kind") == "probe"}
        self._file = (self.run_dir / METRICS).open("a", encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            file, self._file = self._file, None
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the display of %s did not finish within %.0f s", self.run_dir, CLOSE_S)
        if file is not None:
            with about(self.run_dir / METRICS) if error is None else contextlib.suppress(OSError):
                file.close()  # flushes again, which fails again on a full disk

    def __call__(self, record: Record) -> None:
        """Write one record and queue it for display.

        Raises RuntimeError outside the `with` block, OSError if it cannot be written, ThreadDied if the display thread
        is dead.
        """
        if self._broken is not None:
            raise self._broken
        kept = finite(record)
        note_step(record["stage"], record["step"])
        with self._lock:
            if self._file is None:
                raise RuntimeError(f"monitor of {self.run_dir} is closed: call it inside its `with` block")
            self._keep(kept, self._file)
            self._offer(kept)

    def summary_stages(self) -> list[dict[str, Any]]:
        """Return the "end" record of each finished stage, in order, with its number as `index` and its last `probe`."""
        with self._lock:
            probes = {stage: {"probe": _figures(record)} for stage, record in self._probes.items()}
            restarts = {stage: {"restarts": count} for stage, count in self._rejoined.items()}
            return [
                {"index": stage, **end, **probes.get(stage, {}), **restarts.get(stage, {})}
                for stage, end in sorted(self._ends.items())
            ]

    def _keep(self, record: dict[str, Any], file: IO[str]) -> None:
        if record["kind"] in WRITTEN:
            with about(self.run_dir / METRICS):
                file.write(json.dumps(record) + "\n")
                file.flush()
        if record["kind"] == "valid":
            self.valid_history.append(record)
        elif record["kind"] == "sitting":
            self.sittings.append(record)
        elif record["kind"] == "probe":
            self._probes[record["stage"]] = record
        elif record["kind"] == "rejoined":
            self._rejoined[record["stage"]] += 1
        elif record["kind"] == "end":
            self._ends[record["stage"]] = _figures(record)

    def _offer(self, record: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            if not self._full:
                log.warning("the display of %s is behind: some records are written but not shown", self.run_dir)
            self._full = True

    def _died(self, error: Exception) -> None:
        self._broken = error

    def _display(self) -> None:
        board = IsolatedSink("TensorBoard", lambda: TensorBoardWriter(self.run_dir, self._stages, self._earlier))
        parts = [IsolatedSink("terminal", lambda: self._screen), *([board] if self._tensorboard else [])]
        metrics = self._metrics
        parts += [] if metrics is None else [IsolatedSink("Prometheus", lambda: metrics)]
        parts += self._loggers
        while True:
            try:
                record = self._queue.get(timeout=REFRESH_S)
            except queue.Empty:
                record = {}  # no new record, but an earlier one may still have to be drawn
            for part in parts:
                part.close() if record is None else part.show(record)
            if record is None:
                return


def _figures(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("kind", "stage")}


def _earlier_records(path: Path) -> list[dict[str, Any]]:
    """Return the records already in the file; cut off a last line that a killed run left unfinished."""
    if not path.exists():
        return []
    _end_last_line(path)
    return read_metrics(path)


def _end_last_line(path: Path) -> None:
    whole, newline, tail = path.read_bytes().rpartition(b"\n")
    with contextlib.suppress(ValueError):
        json.loads(tail)
        whole, newline = whole + newline + tail, b"\n"
    if tail:
        path.write_bytes(whole + newline)
