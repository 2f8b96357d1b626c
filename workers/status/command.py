"""`dni-status`: the state of one run, with the step, rate and lateness of every stage, and who waits for whom."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from dni import __version__
from dni.errors import ConfigError
from workers.status.run_state import RunState, StageState, holding_up, state_of
from workers.system.errors import as_refusal

#: Longest silence that is not reported, in seconds and in intervals between two records.
QUIET_S, QUIET_INTERVALS = 10.0, 5

#: Columns of a terminal that has room for any table.
MEASURED = 10_000

ENDINGS = {"steps": "finished", "max_timesteps": "finished", "patience": "finished, out of patience"}


class Column(NamedTuple):
    """A column of the table; those with the highest `rank` are left out first where the terminal is narrow."""

    heading: str
    rank: int
    cell: Callable[[StageState], str]


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _waits(stage: StageState) -> str:
    shares = sorted(stage.waits.items(), key=lambda wait: -wait[1])
    return ", ".join(f"{other} ({share:.0%})" for other, share in shares if share >= 0.01) or "-"


COLUMNS = (
    Column("stage", 0, lambda stage: str(stage.index)),
    Column("step", 0, lambda stage: str(stage.step)),
    Column("behind\n(steps)", 3, lambda stage: str(stage.behind)),
    Column("steps/s", 1, lambda stage: _cell(stage.steps_per_s, "{:.1f}")),
    Column("lateness\n(steps)", 2, lambda stage: _cell(stage.staleness, "{:.1f}")),
    Column("loss", 6, lambda stage: _cell(stage.loss, "{:.4f}")),
    Column("busy", 5, lambda stage: _cell(stage.busy, "{:.0%}")),
    Column("record\n(s ago)", 4, lambda stage: _cell(stage.age_s, "{:.0f}")),
    Column("waits for\nstage", 0, _waits),
)


def headline(run: RunState) -> str:
    """Return one line: the state, the step, the time left or the age of the newest record, and the folder."""
    of = "" if run.steps is None else f" of {run.steps}"
    parts = [_state(run), f"step {run.step}{of}"]
    if run.left_s is not None:
        parts.append(f"{timedelta(seconds=round(run.left_s))} left")
    if run.age_s is not None:
        parts.append(f"newest record {timedelta(seconds=round(run.age_s))} ago")
    return f"{', '.join(parts)}: {run.path}"


def _state(run: RunState) -> str:
    if run.state != "ended":
        return run.state
    return ENDINGS.get(run.ended or "", run.ended or "ended")


def remarks(run: RunState) -> Iterator[str]:
    """Yield lines on what holds up the run, on silence, and on how to go on."""
    if run.state != "ended":
        for holder, others in sorted(holding_up(run.stages).items()):
            yield f"stage {holder} is waited for by stage {', '.join(map(str, others))}"
    if run.state == "running" and run.age_s is not None:
        if run.interval_s is None:
            yield "its stages have recorded no step yet"
        elif run.age_s > max(QUIET_S, QUIET_INTERVALS * run.interval_s):
            yield f"no record for {run.age_s:.0f} s; at its last rate one comes every {run.interval_s:.1f} s"
    if run.state == "died":
        yield "no process is running it, and it has no summary.json of its end"
    if run.state == "died" or run.ended == "interrupted":
        saved = "no complete checkpoint was written" if run.resume is None else f"step {run.checkpoint} is saved"
        yield saved if run.resume is None else f"{saved}; resume with: {run.resume}"


def table_of(run: RunState, console: Console) -> Table:
    """Return the table of all stages, with as many columns as the terminal has room for."""
    for most in range(max(column.rank for column in COLUMNS), -1, -1):
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        shown = [column for column in COLUMNS if column.rank <= most]
        for column in shown:
            table.add_column(column.heading, justify="right", no_wrap=True)
        for stage in run.stages:
            table.add_row(*(column.cell(stage) for column in shown))
        if console.measure(table, options=console.options.update(width=MEASURED)).maximum <= console.width:
            break
    return table


def as_json(run: RunState) -> dict[str, Any]:
    """Return the state as plain data."""
    stages = [{**asdict(stage), "waits_for": stage.waits_for} for stage in run.stages]
    plain = {**asdict(run), "path": str(run.path), "stages": stages, "step": run.step, "left_s": run.left_s}
    return {**plain, "holding_up": holding_up(run.stages)}


def show(run: RunState) -> None:
    """Print the headline, the table of the stages and the remarks."""
    console = Console()

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    say(headline(run))
    console.print(table_of(run, console))
    for line in remarks(run):
        say(line)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-status`. Returns 0, or 2 after one line on stderr if there is no run to read."""
    parser = argparse.ArgumentParser(
        "dni-status", description="Show whether a run is running, has ended or has died, and where its stages are."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("run", metavar="RUN_DIR", type=Path, help="the folder of a run")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args(argv)
    try:
        run = state_of(options.run)
    except (ConfigError, OSError) as error:
        print(f"dni-status: {as_refusal(error) or error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_json(run)))
    else:
        show(run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
