"""A benchmark as a grid of cells. Finished cells are read from its record; others run two at a time (JOBS=n)."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.harness.environment import RESULTS, environment, write
from benchmarks.harness.runs import recipe

QUICK = os.environ.get("QUICK") == "1"
JOBS = int(os.environ.get("JOBS", "1" if QUICK else "2"))  # cells at once

Row = dict[str, Any]


class Cell(Protocol):
    """One run."""

    @property
    def name(self) -> str:
        """The name in the results; its parts are separated by ", "."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """The settings, as words of a command."""


C = TypeVar("C", bound=Cell)


@dataclass
class Grid:
    """The cells of one benchmark and their rows.

    Args:
        name: of the folder outputs/bench-NAME with the runs. The record is in benchmarks/results (QUICK=1: there).
        record: the record's name.
        head: the first entries of the record.
        others: records of other benchmarks; a run that is the same there is not repeated.
    """

    name: str
    record: str
    head: dict[str, Any] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    _measured: bool = field(default=False, init=False)  # whether rows of this machine are among them

    @property
    def out(self) -> Path:
        """The folder of the runs."""
        return Path(f"outputs/bench-{self.name}") / ("quick" if QUICK else "full")

    @property
    def path(self) -> Path:
        """The file of the record."""
        return (self.out if QUICK else RESULTS) / f"{self.record}.json"

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell's run: its name without characters that shells and Hydra treat specially."""
        return self.out / re.sub(r"[^\w.-]", "", cell.name.replace(", ", "-"))

    def finished(self) -> dict[str, Row]:
        """Return the rows of earlier calls, by name."""
        return dict(json.loads(self.path.read_text(encoding="utf-8"))["rows"]) if self.path.is_file() else {}

    def _known(self) -> dict[str, Row]:
        """Return the rows of the other records, by key."""
        files = [] if QUICK else [RESULTS / f"{name}.json" for name in self.others]
        every = [row for file in files for row in json.loads(file.read_text(encoding="utf-8"))["rows"].values()]
        return {row["key"]: row for row in every if "key" in row}

    def fill(
        self, cells: Sequence[C], measure: Callable[[C], Row], show: Callable[[Row], str], at_once: int = JOBS
    ) -> dict[str, Row]:
        """Return the rows of all cells, in their order. Every row is saved as soon as it is measured."""
        rows, keys = self.finished(), {cell.name: recipe(*cell.overrides) for cell in cells}
        known = self._known()
        rows |= {cell.name: known[keys[cell.name]] for cell in cells if keys[cell.name] in known}
        missing = [cell for cell in cells if rows.get(cell.name, {}).get("key") != keys[cell.name]]
        print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished", flush=True)
        self._measured |= bool(missing)
        with ThreadPoolExecutor(at_once) as pool:
            running = {pool.submit(measure, cell): cell for cell in missing}
            try:
                for number, future in enumerate(as_completed(running), 1):
                    name = running[future].name
                    rows[name] = {"key": keys[name], **future.result()}
                    self.keep({**self.finished(), name: rows[name]}, [])  # another process may fill other cells
                    print(f"{number}/{len(missing)} {name}: {show(rows[name])}", flush=True)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # running cells end; no further one starts
                raise
        return {cell.name: rows[cell.name] for cell in cells}

    def keep(self, rows: dict[str, Row], bars: list[dict[str, Any]]) -> None:
        """Write the rows and the machines that measured them: several, if the record was begun on another one."""
        here = environment()
        if self.path.is_file():
            before = json.loads(self.path.read_text(encoding="utf-8"))["environment"]
            machines = dict.fromkeys(
                [*before["machine"].split(" and "), *([here["machine"]] if self._measured else [])]
            )
            here = {**(here if self._measured else before), "machine": " and ".join(machines)}
        write(self.path, {**self.head, "environment": here, "rows": rows, "bars": bars})


def by_seed(rows: dict[str, Row]) -> dict[str, list[Row]]:
    """Group the rows of cells that differ only in their seed, by the name without it; add the seed to each row."""
    found: dict[str, list[Row]] = {}
    for name, row in rows.items():
        group, _, seed = name.rpartition(", seed ")
        found.setdefault(group, []).append({**row, "seed": int(seed)})
    return found


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return mean ± standard deviation."""
    if not values:
        return "-"
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


def errors_ahead(theirs: list[float], ours: list[float]) -> float:
    """Return by how many standard errors of the difference of the means ours are below theirs; seeds are pairs."""
    gaps = [a - b for a, b in zip(theirs, ours, strict=False)]
    if len(gaps) < 2:
        return 0.0
    return statistics.mean(gaps) / (statistics.stdev(gaps) / math.sqrt(len(gaps)))
