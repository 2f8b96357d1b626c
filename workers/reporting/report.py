"""`dni-report`: show run folders as one table per task, curves and one self-contained page."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dni import __version__
from dni.errors import ConfigError
from workers.reporting.aggregate import Group, group_runs
from workers.reporting.charts import charts
from workers.reporting.command import command_of
from workers.reporting.compare import refuse_unknown
from workers.reporting.fairness import warnings
from workers.reporting.figures import draw
from workers.reporting.formats import as_csv, as_latex, as_markdown
from workers.reporting.notes import left_out
from workers.reporting.page import RunText, Section, page
from workers.reporting.table import table_rows
from workers.tracking.run import Run, find_runs

#: The files of the tables, by format.
FILES = {"markdown": "table.md", "csv": "table.csv", "latex": "table.tex"}


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of every task, in order."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def _show(sections: Sequence[Section], others: Sequence[str], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 240)
    for section in sections:
        console.print(_fitting(section.title, section.rows, console))
        for line in section.lines:
            console.print(Text(line), soft_wrap=True)
    for line in [*others, f"report: {out / 'report.html'}"]:
        console.print(Text(line), soft_wrap=True)


def _fitting(title: str, rows: list[list[str]], console: Console) -> Table:
    """Return a table that fits the terminal: one whose words would be cut is turned, with a line for each figure."""
    room = console.options.update(width=10_000)
    tables = [_table(title, each) for each in (rows, [list(column) for column in zip(*rows, strict=True)])]
    return next((each for each in tables if console.measure(each, options=room).minimum <= console.width), tables[0])


def _table(title: str, rows: list[list[str]]) -> Table:
    table = Table(*map(escape, rows[0]), title=Text(title), title_justify="left")
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def report(
    folders: Sequence[str], out: Path, by: Sequence[str] = (), baseline: str | None = None, form: str = "terminal"
) -> None:
    """Read the runs in `folders`; write tables, figures and report.html into `out`; print the tables in a format.

    Raises ConfigError for folders without runs, damaged files, unknown keys and an unknown baseline, OSError for a bad
    `out`.
    """
    runs = find_runs(folders)
    groups = group_runs(runs, by)
    others = left_out(runs, groups)
    tasks = by_task(groups)
    if baseline is not None:
        refuse_unknown(tasks, baseline)
    out.mkdir(parents=True, exist_ok=True)
    sections = [
        _section(f"{n}-" if len(tasks) > 1 else "", *task, out, baseline) for n, task in enumerate(tasks.items(), 1)
    ]
    texts = {"markdown": as_markdown(sections, others), "csv": as_csv(tasks, baseline), "latex": as_latex(sections)}
    for name, text in texts.items():
        (out / FILES[name]).write_text(text, encoding="utf-8", newline="")
    (out / "report.html").write_text(page(sections, others), encoding="utf-8")
    if form == "terminal":
        _show(sections, others, out)
    else:
        print(texts[form], end="")


def _section(prefix: str, title: str, groups: list[Group], out: Path, baseline: str | None) -> Section:
    pictures = [(caption, (out / name).read_bytes()) for name, caption in draw(groups, out, prefix).items()]
    found = [_run_text(group, run) for group in groups for run in group.runs]
    return Section(title, table_rows(groups, baseline), warnings(groups), pictures, charts(groups), found)


def _run_text(group: Group, run: Run) -> RunText:
    settings = yaml.safe_dump(run.config, allow_unicode=True, sort_keys=False) if run.config else ""
    title = f"{group.label}, seed {(run.summary or {}).get('seed')}: {run.path}"
    return RunText(title, command_of(run.config) if run.config else None, settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-report`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser(
        "dni-report", description="Show runs as a table per task, curves and one HTML page."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("folders", nargs="+", metavar="RUN_DIR", help="a run, or a folder of runs")
    parser.add_argument("--out", type=Path, help="default: RUN_DIR/report; ./report for several folders")
    parser.add_argument(
        "--by", nargs="+", default=[], metavar="KEY", help="settings to group by: method stages seed ..."
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="a row, by method or label; the others get their difference to it, by seed"
    )
    parser.add_argument("--format", choices=("terminal", *FILES), default="terminal", help="of the printed tables")
    options = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    near = Path(options.folders[0] if len(options.folders) == 1 else ".")
    try:
        report(options.folders, options.out or near / "report", options.by, options.baseline, options.format)
    except (ConfigError, OSError) as error:
        print(f"dni-report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
