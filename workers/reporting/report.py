"""`dni-report`: show run folders as one table per task, curves and one self-contained page."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dni import __version__
from dni.errors import ConfigError
from workers.reporting.aggregate import Group, group_runs, metrics_of, spread, unit_of
from workers.reporting.figures import draw
from workers.reporting.notes import left_out, notes
from workers.reporting.page import Section, page
from workers.tracking.run import find_runs

#: heading, place in the summary (of `stage`: the mean over stages), format
COLUMNS = (
    ("valid (bits/label)", ("valid", "bits_per_label"), "{:.3f}"),
    ("valid accuracy", ("valid", "accuracy"), "{:.3f}"),
    ("train (bits/label)", ("train", "bits_per_label"), "{:.3f}"),
    ("time (s)", ("wall_s",), "{:.1f}"),
    ("tokens/s", ("tokens_per_s",), "{:.0f}"),
    ("busy fraction", ("stage", "busy"), "{:.3f}"),
    ("staleness (steps)", ("stage", "staleness_mean"), "{:.2f}"),
    ("cosine depth", ("stage", "predictor_cosine"), "{:.3f}"),
    ("cosine time", ("stage", "time_cosine"), "{:.3f}"),
    ("peak memory (MB)", ("stage", "peak_rss_mb"), "{:.0f}"),
)


def table_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Return the table of one task as text, headings first, without columns that no run has a value for."""
    columns = [c for c in _columns(groups) if any(spread(group, c[1])[2] for group in groups)]
    remarks = [notes(group) for group in groups]
    last = ["seeds", *(["notes"] if any(remarks) else [])]
    rows = [[*(groups[0].values if groups else []), "n", *(name for name, _, _ in columns), *last]]
    for group, remark in zip(groups, remarks, strict=True):
        cells = [_cell(*spread(group, place), len(group.runs), form) for _, place, form in columns]
        rows.append([*group.values.values(), str(len(group.runs)), *cells, group.seeds, remark][: len(rows[0])])
    return rows


def _columns(groups: Sequence[Group]) -> list[tuple[str, tuple[str, ...], str]]:
    """Return all columns: also losses that are not in nats, and metrics with an arrow towards better values."""
    unit = unit_of(groups)
    own = [(f"{split} loss ({unit})", (split, "loss"), "{:.4g}") for split in ("valid", "train")] if unit else []
    metrics = [
        (f"valid {key} {'↑' if up else '↓'}", ("valid", "metrics", key), "{:.4g}")
        for key, up in metrics_of(groups).items()
    ]
    return [*own, *COLUMNS[:2], *metrics, *COLUMNS[2:]]


def _cell(mean: float | None, deviation: float | None, n: int, runs: int, form: str) -> str:
    if mean is None:
        return "-"
    text = form.format(mean) + (f" ± {form.format(deviation)}" if deviation is not None else "")
    return text if n == runs else f"{text} (n={n})"


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Return the groups of every task, in order."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks


def warnings(groups: Sequence[Group]) -> list[str]:
    """Return warnings about comparing the rows of one task."""
    seeds = {group.seeds for group in groups if group.runs}
    return ["The rows have different seeds: their means cover different trials."] if len(seeds) > 1 else []


def _write_csv(groups: Sequence[Group], path: Path) -> None:
    columns = _columns(groups)
    names = [f"{name} {part}" for name, _, _ in columns for part in ("mean", "sd", "n")]
    keys = list(dict.fromkeys(key for group in groups for key in group.values))
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(["task", *keys, "n", *names, "seeds", "notes"])
        for group in groups:
            shown = [group.values.get(key, "") for key in keys]
            numbers = [number for _, place, _ in columns for number in spread(group, place)]
            out.writerow([group.task, *shown, len(group.runs), *numbers, group.seeds, notes(group)])


def _markdown(sections: Sequence[Section], others: Sequence[str]) -> str:
    lines: list[str] = []
    for section in sections:
        table = [section.rows[0], ["---"] * len(section.rows[0]), *section.rows[1:]]
        shown = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table]
        lines += [f"### {section.title}", "", *shown, "", *section.lines, *([""] if section.lines else [])]
    return "\n".join([*lines, *(f"- {line}" for line in others), ""])


def _show(sections: Sequence[Section], others: Sequence[str], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 240)
    for section in sections:
        table = Table(*map(escape, section.rows[0]), title=Text(section.title), title_justify="left")
        for row in section.rows[1:]:
            table.add_row(*map(Text, row))
        console.print(table)
        for line in section.lines:
            console.print(Text(line), soft_wrap=True)
    for line in [*others, f"report: {out / 'report.html'}"]:
        console.print(Text(line), soft_wrap=True)


def report(folders: Sequence[str], out: Path, by: Sequence[str] = ()) -> None:
    """Read the runs in `folders`; write tables, figures and report.html into `out`; print the tables.

    Raises ConfigError for folders without runs, damaged files and unknown keys, OSError for a bad `out`.
    """
    runs = find_runs(folders)
    groups = group_runs(runs, by)
    counted = [f"{g.label}: {run.path}, seed {(run.summary or {}).get('seed')}" for g in groups for run in g.runs]
    others = left_out(runs, groups)
    out.mkdir(parents=True, exist_ok=True)
    tasks = by_task(groups)
    sections = [_section(f"{n}-" if len(tasks) > 1 else "", *task, out) for n, task in enumerate(tasks.items(), 1)]
    (out / "table.md").write_text(_markdown(sections, others), encoding="utf-8")
    _write_csv(groups, out / "table.csv")
    (out / "report.html").write_text(page(sections, counted, others), encoding="utf-8")
    _show(sections, others, out)


def _section(prefix: str, title: str, groups: list[Group], out: Path) -> Section:
    pictures = [(caption, (out / name).read_bytes()) for name, caption in draw(groups, out, prefix).items()]
    return Section(title, table_rows(groups), warnings(groups), pictures)


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
    options = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    near = Path(options.folders[0] if len(options.folders) == 1 else ".")
    try:
        report(options.folders, options.out or near / "report", options.by)
    except (ConfigError, OSError) as error:
        print(f"dni-report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
