"""Show the progress of a run: a table drawn in place, or plain lines without a terminal."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

Record = Mapping[str, Any]

REFRESH_S = 0.25  #: shortest time between two redraws of the live table
PLAIN_S = 5.0  #: shortest time between two progress lines without a terminal

#: heading, key of a train record, format; the widths add up to less than 80 characters
COLUMNS = (
    ("step", "step", "{:.0f}"),
    ("loss\n(nats)", "loss", "{:.4f}"),
    ("bits/\nlabel", "bits_per_label", "{:.4f}"),
    ("steps/s", "steps_per_s", "{:.1f}"),
    ("busy", "busy", "{:.0%}"),
    ("queue", "queue", "{:.0f}"),
    ("in\nflight", "in_flight", "{:.0f}"),
    ("staleness", "staleness", "{:.1f}"),
    ("cosine\ndepth", "cosine", "{:.2f}"),
    ("cosine\ntime", "time_cosine", "{:.2f}"),
)
#: the same for a plain line, by stage; the first is always shown, the others if a stage has them
PER_STAGE = (
    ("busy", "busy", "{:.0%}"),
    ("staleness", "staleness", "{:.1f}"),
    ("cosine depth", "cosine", "{:.2f}"),
    ("cosine time", "time_cosine", "{:.2f}"),
)
#: for the line on the newest probe: name, key of a probe record
PROBED = (("parameters", "parameters"), ("time", "time_cosine"), ("depth", "depth_cosine"))
#: figure: key of the "end" record (mean over the run) that replaces it if there was no "train" record
MEANS = {"staleness": "staleness_mean", "cosine": "predictor_cosine", "time_cosine": "time_cosine"}


class Screen:
    """Show records; a figure that a stage's newest record lacks keeps its last value.

    `live` draws a table in place (None: on a terminal); log lines appear above it.
    """

    def __init__(self, console: Console, stages: int, steps: int, live: bool | None) -> None:
        self.console, self.stages, self.steps = console, stages, steps
        self.rows: dict[int, dict[str, Any]] = {}
        self.valid: Record = {}
        self.own: Record = {}  # validation of a stage's local objective
        self.probed: dict[int, Record] = {}  # by stage
        self._pending, self._shown_at = False, float("-inf")
        self._first_at: float | None = None  # time of the first record
        in_place = console.is_terminal if live is None else live
        self._live = LiveTable(console) if in_place else None

    def show(self, record: Record) -> None:
        """Take one record; redraw if it is time to."""
        kind = record.get("kind")
        if kind == "train":
            self._row(record).update(_known(record))
        elif kind == "end":
            self._end(record)
        elif kind == "valid":
            self.valid = record
            if self._live is None:
                self._print(self.validation())
        elif kind == "own":
            self.own = record
            if self._live is None:
                self._print(self.own_task())
        elif kind == "probe":
            self.probed[record["stage"]] = record
            if self._live is None and len(self._newest_probe()) == self.stages:
                self._print(self.probe())
        self._pending |= kind in ("train", "end") or (self._live is not None and kind in ("valid", "own", "probe"))
        if self._pending and self._is_due(time.monotonic()):
            self._draw()

    def close(self) -> None:
        """Draw the latest figures and leave the table on the screen."""
        try:
            if self._pending:
                self._draw()
        finally:
            if self._live:
                self._live.stop()

    def _is_due(self, now: float) -> bool:
        """Whether to draw now; at first, wait a while for the last stage, which has the loss."""
        self._first_at = now if self._first_at is None else self._first_at
        reported = self.stages - 1 in self.rows or self._shown_at > 0 or now - self._first_at >= PLAIN_S
        return reported and now - self._shown_at >= (REFRESH_S if self._live else PLAIN_S)

    def _row(self, record: Record) -> dict[str, Any]:
        return self.rows.setdefault(record["stage"], {})

    def _end(self, record: Record) -> None:
        row = self._row(record)
        means = _known({key: record.get(mean) for key, mean in MEANS.items()})
        ended = _known({key: record.get(key) for key in ("step", "busy", "steps_per_s")})
        row.update(means | row | ended)

    def _draw(self) -> None:
        self._pending, self._shown_at = False, time.monotonic()
        if self._live is None:
            self._print(self.line())
        else:
            self._live.draw(self.table())

    def _print(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)

    def table(self) -> Table:
        """Return the table: a row per stage; below it progress, time left, the last validation and the newest probe."""
        validation, probe = [self.validation()] if self.valid else [], [self.probe()] if self.probed else []
        own = [self.own_task()] if self.own else []
        caption = Text("\n".join([self.progress(), *validation, *own, *probe]))
        table = Table(caption=caption, caption_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("stage", justify="right")
        shown = [column for column in self._columns() if column[1] != "time_cosine" or self._any(column[1])]
        for heading, _, _ in shown:
            table.add_column(heading, justify="right", no_wrap=True)
        for stage in range(self.stages):
            row = self.rows.get(stage, {})
            table.add_row(str(stage), *(_cell(row.get(key), form) for _, key, form in shown))
        return table

    def line(self) -> str:
        """Return a line with progress, the last stage's loss and every stage's figures."""
        last = self.rows.get(self.stages - 1, {})
        loss, bits, pace = (last.get(key) for key in ("loss", "bits_per_label", "steps_per_s"))
        parts = [self.progress()]
        parts += [] if loss is None else [f"loss {loss:.4f} {last.get('unit') or _in_bits(bits)}"]
        parts += [] if pace is None else [f"{pace:.1f} steps/s"]
        for name, key, form in PER_STAGE:
            if key == "busy" or self._any(key):
                parts.append(" ".join([name, *(_cell(row.get(key), form) for row in self._by_stage())]))
        return " | ".join(parts)

    def progress(self) -> str:
        """Return the step of the slowest stage, and the time left at its rate."""
        slowest = min(self.rows.values(), key=lambda row: int(row["step"]), default={"step": 0})
        step, pace = slowest["step"], slowest.get("steps_per_s")
        left = str(timedelta(seconds=round(max(0, self.steps - step) / pace))) if pace else "-"
        return f"step {step} of {self.steps} ({step / max(1, self.steps):.0%}) | {left} left"

    def validation(self) -> str:
        """Return the last validation result."""
        return f"validation at step {self.valid.get('step')}: {_validated(self.valid)}"

    def own_task(self) -> str:
        """Return the last validation result of a stage's local objective."""
        return f"own task of stage {self.own.get('stage')} at step {self.own.get('step')}: {_validated(self.own)}"

    def probe(self) -> str:
        """Return the newest probe's cosines of synthetic with exact gradients, by stage."""
        newest = self._newest_probe()
        step = next(iter(newest.values()))["step"]
        parts = []
        for name, key in PROBED:
            found = [newest.get(stage, {}).get(key) for stage in range(self.stages)]
            if any(value is not None for value in found):
                parts.append(" ".join([name, *(_cell(value, "{:.2f}") for value in found)]))
        return f"probe at step {step}: cosine {', '.join(parts) or '-'}"

    def _newest_probe(self) -> dict[int, Record]:
        step = max(record["step"] for record in self.probed.values())
        return {stage: record for stage, record in self.probed.items() if record["step"] == step}

    def _columns(self) -> list[tuple[str, str, str]]:
        """Return the columns of the table, without bits if the loss has its own unit."""
        unit = next((row["unit"] for row in self._by_stage() if "unit" in row), None)
        if unit is None:
            return [*COLUMNS]
        own = [column for column in COLUMNS if column[1] != "bits_per_label"]
        return [(f"loss\n({unit})", *column[1:]) if column[1] == "loss" else column for column in own]

    def _by_stage(self) -> list[dict[str, Any]]:
        return [self.rows.get(stage, {}) for stage in range(self.stages)]

    def _any(self, key: str) -> bool:
        return any(row.get(key) is not None for row in self._by_stage())


class LiveTable:
    """A table drawn in place. While it is shown, log handlers of the terminal write above it."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []

    def draw(self, table: Table) -> None:
        """Draw the table; the first call takes over the terminal."""
        if not self._live.is_started:
            before = sys.stdout, sys.stderr
            self._live.start()
            self._move_logs(dict(zip(before, (sys.stdout, sys.stderr), strict=True)))
        self._live.update(table, refresh=True)

    def stop(self) -> None:
        """Restore the terminal; the last table stays on it."""
        self._live.stop()
        for handler, stream in self._moved:
            handler.setStream(stream)
        self._moved = []

    def _move_logs(self, replaced: Mapping[TextIO, TextIO]) -> None:
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in replaced:
                self._moved.append((handler, handler.stream))
                handler.setStream(replaced[handler.stream])


def _in_bits(bits: float | None) -> str:
    return f"nats ({_cell(bits, '{:.4f}')} bits/label)"


def _validated(record: Record) -> str:
    metrics = "".join(f", {key} {_cell(value, '{:.4g}')}" for key, value in (record.get("metrics") or {}).items())
    if "unit" in record:
        return f"loss {_cell(record.get('loss'), '{:.4f}')} {record['unit']}{metrics}"
    loss, bits = (_cell(record.get(key), "{:.4f}") for key in ("loss", "bits_per_label"))
    right = record.get("accuracy")
    accuracy = "" if right is None else f", {right:.1%} right"
    return f"{bits} bits/label ({loss} nats){accuracy}{metrics}"


def _known(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if value is not None}


def _cell(value: Any, form: str) -> str:
    return "-" if value is None else form.format(value)
