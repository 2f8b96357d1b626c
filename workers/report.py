"""`dni-report`: any number of run folders as one table, curves and one self-contained page."""

from __future__ import annotations

import argparse
import base64
import csv
import html
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
from workers.figures import draw
from workers.groups import Group, group_runs, spread
from workers.summary import Run, find_runs

#: heading, place in the summary (of `stage`: the mean over stages), format
COLUMNS = (
    ("valid (bits/char)", ("valid", "bits_per_char"), "{:.3f}"),
    ("valid accuracy", ("valid", "accuracy"), "{:.3f}"),
    ("train (bits/char)", ("train", "bits_per_char"), "{:.3f}"),
    ("time (s)", ("wall_s",), "{:.1f}"),
    ("tokens/s", ("tokens_per_s",), "{:.0f}"),
    ("busy fraction", ("stage", "busy"), "{:.3f}"),
    ("staleness (steps)", ("stage", "staleness_mean"), "{:.2f}"),
    ("cosine depth", ("stage", "predictor_cosine"), "{:.3f}"),
    ("cosine time", ("stage", "time_cosine"), "{:.3f}"),
    ("peak memory (MB)", ("stage", "peak_rss_mb"), "{:.0f}"),
)


def table_rows(groups: Sequence[Group]) -> list[list[str]]:
    """The table as text, headings first, without the columns that no run has a value for."""
    columns = [c for c in COLUMNS if any(spread(group, c[1])[2] for group in groups)]
    rows = [[*(groups[0].values if groups else []), "n", *(name for name, _, _ in columns)]]
    for group in groups:
        cells = [_cell(*spread(group, place), len(group.runs), form) for _, place, form in columns]
        rows.append([*group.values.values(), str(len(group.runs)), *cells])
    return rows


def _cell(mean: float | None, deviation: float | None, n: int, runs: int, form: str) -> str:
    if mean is None:
        return "-"
    text = form.format(mean) + (f" ± {form.format(deviation)}" if deviation is not None else "")
    return text if n == runs else f"{text} (n={n})"


def _write_csv(groups: Sequence[Group], path: Path) -> None:
    names = [f"{name} {part}" for name, _, _ in COLUMNS for part in ("mean", "sd", "n")]
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow([*(groups[0].values if groups else []), "n", *names])
        for group in groups:
            numbers = [number for _, place, _ in COLUMNS for number in spread(group, place)]
            out.writerow([*group.values.values(), len(group.runs), *numbers])


def _markdown(rows: list[list[str]], unfinished: Sequence[str]) -> str:
    table = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table]
    return "\n".join([*lines, "", *(f"- unfinished: {line}" for line in unfinished), ""])


STYLE = """
:root { color-scheme: light dark; --line: #8886; --quiet: light-dark(#555, #aaa); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 1rem;
       background: light-dark(#fff, #16181c); color: light-dark(#1a1a1a, #e8e8e8); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; }
th { vertical-align: bottom; } td { white-space: nowrap; }
.figures { display: grid; gap: 1.5rem;
           grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; max-width: 46rem; }
img { width: 100%; background: #fff; border-radius: .4rem; }
figcaption, ul { color: var(--quiet); font-size: .9rem; } li { overflow-wrap: anywhere; }
"""


def page(
    rows: list[list[str]],
    pictures: Sequence[tuple[str, bytes]],
    runs: Sequence[str],
    unfinished: Sequence[str],
) -> str:
    """One HTML page that loads nothing: `rows` of the table, captions with PNG bytes."""
    figures = "".join(
        f'<figure><img alt="{caption}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
        for caption, png in pictures
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Training report</title><style>{STYLE}</style></head><body>
<h1>Training report</h1>
<p>Settings: {len(rows) - 1}. Finished runs: {len(runs)}. Values: mean ± standard deviation over n runs.</p>
<div class="wide"><table>{_table_html(rows)}</table></div>
{_list_html("Unfinished runs, not in the table", unfinished)}
<div class="figures">{figures}</div>
{_list_html("Runs", runs)}
</body></html>
"""


def _table_html(rows: list[list[str]]) -> str:
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in body)
    return f"<tr><th>{'</th><th>'.join(head)}</th></tr>{lines}"


def _list_html(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _show(rows: list[list[str]], unfinished: Sequence[str], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 240)
    table = Table(*map(escape, rows[0]))
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    if rows[1:]:
        console.print(table)
    for line in [*(f"unfinished: {line}" for line in unfinished), f"report: {out / 'report.html'}"]:
        console.print(Text(line), soft_wrap=True)


def report(folders: Sequence[str], out: Path, by: Sequence[str] = ()) -> None:
    """Read the runs in `folders`; write table, figures and report.html into `out`; print the table.

    Raises ConfigError for folders without runs, damaged files and unknown keys, OSError for a bad `out`.
    """
    runs = find_runs(folders)
    groups = group_runs(runs, by)
    rows, unfinished = table_rows(groups), [_progress(run) for run in runs if run.summary is None]
    finished = [f"{g.label}: {run.path}, seed {(run.summary or {}).get('seed')}" for g in groups for run in g.runs]
    out.mkdir(parents=True, exist_ok=True)
    pictures = [(caption, (out / name).read_bytes()) for name, caption in draw(groups, out).items()]
    (out / "table.md").write_text(_markdown(rows, unfinished), encoding="utf-8")
    _write_csv(groups, out / "table.csv")
    (out / "report.html").write_text(page(rows, pictures, finished, unfinished), encoding="utf-8")
    _show(rows, unfinished, out)


def _progress(run: Run) -> str:
    step = max((record["step"] for record in run.metrics), default=0)
    return f"{run.path}: no summary.json, last record at step {step}"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-report`. Returns 0, or 2 after one line on stderr that says what to change."""
    parser = argparse.ArgumentParser("dni-report", description="Runs as one table, curves and one HTML page.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("folders", nargs="+", metavar="RUN_DIR", help="a run, or a folder that holds runs")
    parser.add_argument("--out", type=Path, help="default: RUN_DIR/report; ./report for several folders")
    parser.add_argument("--by", nargs="+", default=[], metavar="KEY", help="settings to group by: method stages ...")
    asked = parser.parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ± still gets its table
    near = Path(asked.folders[0] if len(asked.folders) == 1 else ".")
    try:
        report(asked.folders, asked.out or near / "report", asked.by)
    except (ConfigError, OSError) as error:
        print(f"dni-report: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
