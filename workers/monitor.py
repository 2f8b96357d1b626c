"""Follow a run: `metrics.jsonl`, TensorBoard events and a live table, from the records its stages emit.

The thread that brings a record writes it to `metrics.jsonl`; all that is shown happens in a thread of its
own, behind a bounded queue, so that a slow terminal never holds up a stage.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from workers.summary import METRICS, finite, read_metrics

Record = Mapping[str, Any]
log = logging.getLogger(__name__)

REFRESH_S = 0.25  #: shortest time between two drawings of the live table
PLAIN_S = 5.0  #: shortest time between two progress lines where there is no terminal
QUEUE_LIMIT = 4096  #: records waiting to be shown; further ones are written, but not shown
CLOSE_S = 10.0  #: longest wait for the display at the end of a run

#: column, key of a train record, format
COLUMNS = (
    ("step", "step", "{:.0f}"),
    ("loss (nats)", "loss", "{:.4f}"),
    ("bits/char", "bits_per_char", "{:.4f}"),
    ("steps/s", "steps_per_s", "{:.1f}"),
    ("busy", "busy", "{:.0%}"),
    ("queue", "queue", "{:.0f}"),
    ("in flight", "in_flight", "{:.0f}"),
    ("staleness", "staleness", "{:.1f}"),
    ("cosine depth", "cosine", "{:.2f}"),
    ("cosine time", "time_cosine", "{:.2f}"),
)


class Monitor:
    """Sink of the records of all stages; a context manager, and safe to call from any thread inside it.

    `steps`: the last step of the run. `live`: a table in place, not plain lines (default: on a terminal).
    Lines that a resumed run finds in `metrics.jsonl` stay; their validations open `valid_history`. Entering
    raises ConfigError if one of them is damaged.
    """

    def __init__(
        self,
        run_dir: str | Path,
        stages: int,
        steps: int,
        *,
        live: bool | None = None,
        console: Console | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.valid_history: list[dict[str, Any]] = []
        self._ends: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._file: IO[str] | None = None
        self._queue: queue.Queue[Record | None] = queue.Queue(QUEUE_LIMIT)
        self._full = False
        self._screen = Screen(console or Console(), stages, steps, live)
        self._thread = threading.Thread(target=self._display, name="monitor", daemon=True)

    def __enter__(self) -> Monitor:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.valid_history = _earlier_validations(self.run_dir / METRICS)
        self._file = (self.run_dir / METRICS).open("a", encoding="utf-8")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            log.warning("the display of %s did not finish within %.0f s", self.run_dir, CLOSE_S)

    def __call__(self, record: Record) -> None:
        """Take one record. Raises RuntimeError outside the `with` block, OSError if it cannot be written."""
        kept = finite(record)
        with self._lock:
            if self._file is None:
                raise RuntimeError(f"monitor of {self.run_dir} is closed: call it inside its `with` block")
            self._keep(kept, self._file)
            self._offer(kept)

    def summary_stages(self) -> list[dict[str, Any]]:
        """The "end" record of each stage that reached its end, in order, its number as `index`."""
        with self._lock:
            return [{"index": stage, **self._ends[stage]} for stage in sorted(self._ends)]

    def _keep(self, record: dict[str, Any], file: IO[str]) -> None:
        if record["kind"] in ("train", "valid"):
            file.write(json.dumps(record) + "\n")
            file.flush()
        if record["kind"] == "valid":
            self.valid_history.append(record)
        elif record["kind"] == "end":
            self._ends[record["stage"]] = {k: v for k, v in record.items() if k not in ("kind", "stage")}

    def _offer(self, record: dict[str, Any]) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            if not self._full:
                log.warning("the display of %s is behind: some records are written but not shown", self.run_dir)
            self._full = True

    def _display(self) -> None:
        board = Guarded("TensorBoard", lambda: Board(self.run_dir))
        parts = (Guarded("terminal", lambda: self._screen), board)
        while True:
            try:
                record = self._queue.get(timeout=REFRESH_S)
            except queue.Empty:
                record = {}  # nothing new, but something may wait to be drawn
            for part in parts:
                part.close() if record is None else part.show(record)
            if record is None:
                return


class Guarded:
    """A part made on first use, whose first error is logged and ends the part, not the run."""

    def __init__(self, name: str, make: Callable[[], Screen | Board]) -> None:
        self.name, self._make, self._failed = name, make, False
        self._part: Screen | Board | None = None

    def show(self, record: Record) -> None:
        def act() -> None:
            self._part = self._part or self._make()
            self._part.show(record)

        self._try(act)

    def close(self) -> None:
        if self._part is not None:
            self._try(self._part.close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # a display must not end a run
            self._failed = True
            log.warning("%s display is off for the rest of this run: %r", self.name, error)
            with contextlib.suppress(Exception):
                if self._part is not None:
                    self._part.close()  # gives the terminal back


class Board:
    """TensorBoard events: a scalar per number of a record, `stage1/loss` or `stage3/valid_loss`, by step."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import: only when needed

        self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=10)

    def show(self, record: Record) -> None:
        if record.get("kind") not in ("train", "valid"):
            return
        prefix = f"stage{record['stage']}/" + ("valid_" if record["kind"] == "valid" else "")
        for name, value in record.items():
            if name not in ("kind", "stage", "step") and isinstance(value, int | float):
                self._writer.add_scalar(prefix + name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class Screen:
    """A table with one row per stage, drawn in place; plain lines where there is no terminal."""

    def __init__(self, console: Console, stages: int, steps: int, live: bool | None) -> None:
        self.console, self.stages, self.steps = console, stages, steps
        self.rows: dict[int, dict[str, Any]] = {}
        self.valid: Record = {}
        self._pending, self._shown_at = False, float("-inf")
        in_place = console.is_terminal if live is None else live
        self._live = Live(console=console, auto_refresh=False) if in_place else None

    def show(self, record: Record) -> None:
        kind = record.get("kind")
        if kind == "train":
            self.rows[record["stage"]] = dict(record)
        elif kind == "end":
            ended = {key: record[key] for key in ("step", "busy", "steps_per_s") if key in record}
            self.rows.setdefault(record["stage"], {}).update(ended)
        elif kind == "valid":
            self.valid = record
            if self._live is None:
                self.console.print(self.validation(), soft_wrap=True, markup=False, highlight=False)
        self._pending |= kind in ("train", "valid" if self._live else "train", "end")
        if self._pending and time.monotonic() - self._shown_at >= (REFRESH_S if self._live else PLAIN_S):
            self._draw()

    def close(self) -> None:
        try:
            if self._pending:
                self._draw()
        finally:
            if self._live:
                self._live.stop()

    def _draw(self) -> None:
        self._pending, self._shown_at = False, time.monotonic()
        if self._live is None:
            self.console.print(self.line(), soft_wrap=True, markup=False, highlight=False)
            return
        self._live.start()  # does nothing once started
        self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """One row per stage; progress, time left and the last validation as caption."""
        table = Table(caption=self.progress() + (f" | {self.validation()}" if self.valid else ""))
        table.add_column("stage", justify="right")
        for heading, _, _ in COLUMNS:
            table.add_column(heading, justify="right")
        for stage in range(self.stages):
            row = self.rows.get(stage, {})
            table.add_row(str(stage), *(_cell(row.get(key), form) for _, key, form in COLUMNS))
        return table

    def line(self) -> str:
        """Progress, then the last stage's loss and every stage's busy fraction."""
        last = self.rows.get(self.stages - 1, {})
        busy = " ".join(_cell(self.rows.get(s, {}).get("busy"), "{:.0%}") for s in range(self.stages))
        loss, bits = (_cell(last.get(key), "{:.4f}") for key in ("loss", "bits_per_char"))
        pace = _cell(last.get("steps_per_s"), "{:.1f}")
        return f"{self.progress()} | loss {loss} nats ({bits} bits/char) | {pace} steps/s | busy {busy}"

    def progress(self) -> str:
        """Step of the stage that is furthest behind, and the time left at its pace."""
        slowest = min(self.rows.values(), key=lambda row: int(row["step"]), default={"step": 0})
        step, pace = slowest["step"], slowest.get("steps_per_s")
        left = str(timedelta(seconds=round(max(0, self.steps - step) / pace))) if pace else "-"
        return f"step {step} of {self.steps} ({step / max(1, self.steps):.0%}) | {left} left"

    def validation(self) -> str:
        """The last validation result."""
        loss, bits = (_cell(self.valid.get(key), "{:.4f}") for key in ("loss", "bits_per_char"))
        return f"validation at step {self.valid.get('step')}: {bits} bits/char ({loss} nats)"


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)


def _earlier_validations(path: Path) -> list[dict[str, Any]]:
    """Validations of the lines already there; a last line that a killed run left half-written is cut off."""
    if not path.exists():
        return []
    _end_last_line(path)
    return [record for record in read_metrics(path) if record.get("kind") == "valid"]


def _end_last_line(path: Path) -> None:
    whole, newline, tail = path.read_bytes().rpartition(b"\n")
    with contextlib.suppress(ValueError):
        json.loads(tail)
        whole, newline = whole + newline + tail, b"\n"
    if tail:
        path.write_bytes(whole + newline)
