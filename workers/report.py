"""`dni-report`: any number of run folders as one table, curves and one self-contained page.

Runs that differ only in their seed are one group: a row with mean and standard deviation, one colour.
"""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dni.errors import ConfigError
from workers.summary import FACTS, Run, find_runs

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DASHES, HATCHES = ("-", "--", "-.", ":"), ("", "//", "..", "xx")

#: heading, place in the summary (of `stage`: the mean over stages), format
COLUMNS = (
    ("valid (bits/char)", ("valid", "bits_per_char"), "{:.3f}"),
    ("train (bits/char)", ("train", "bits_per_char"), "{:.3f}"),
    ("time (s)", ("wall_s",), "{:.1f}"),
    ("tokens/s", ("tokens_per_s",), "{:.0f}"),
    ("busy fraction", ("stage", "busy"), "{:.3f}"),
    ("staleness (steps)", ("stage", "staleness_mean"), "{:.2f}"),
    ("cosine depth", ("stage", "predictor_cosine"), "{:.3f}"),
    ("cosine time", ("stage", "time_cosine"), "{:.3f}"),
    ("peak memory (MB)", ("stage", "peak_rss_mb"), "{:.0f}"),
)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in seed; `values`: the settings shown, by key; `methods`: "depth + time"."""

    values: dict[str, str]
    methods: list[str]
    runs: list[Run]

    @property
    def label(self) -> str:
        return ", ".join(v if key == "method" else f"{key}={v}" for key, v in self.values.items())


def group_runs(runs: Sequence[Run], by: Sequence[str] = ()) -> list[Group]:
    """Finished runs with equal settings (all but the seed, or those named by `by`) together.

    Raises ConfigError for a key of `by` that no run has.
    """
    settings = [(run.settings(), run) for run in runs if run.summary is not None]
    known = sorted({key for have, _ in settings for key in have})
    if settings and (unknown := [key for key in by if key not in known]):
        raise ConfigError(f"--by {' '.join(unknown)}: no run has it; choose from: {', '.join(known)}")
    groups: dict[tuple[str, ...], list[tuple[dict[str, str], Run]]] = {}
    for have, run in settings:
        groups.setdefault(tuple(have.get(key, "-") for key in by or known), []).append((have, run))
    shown = list(by) or _telling([members[0][0] for members in groups.values()], known)
    return [_group(members, shown) for members in groups.values()]


def _group(members: list[tuple[dict[str, str], Run]], shown: Sequence[str]) -> Group:
    values = {key: members[0][0].get(key, "-") for key in shown}
    methods = list(dict.fromkeys(have["method"] for have, _ in members))
    return Group(values, methods, [run for _, run in members])


def _telling(groups: Sequence[Mapping[str, str]], known: Sequence[str]) -> list[str]:
    """The method and as few other settings as tell the groups apart."""

    def told(keys: Sequence[str]) -> int:
        return len({tuple(group.get(key, "-") for key in keys) for group in groups})

    shown = ["method"]
    while told(shown) < len(groups):
        shown.append(max([*FACTS, *known], key=lambda key: told([*shown, key])))
    return shown


def spread(group: Group, place: Sequence[str]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation (None for fewer than two) and number of the group's values."""
    found = [v for run in group.runs if (v := _value(run.summary, place)) is not None]
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return statistics.fmean(found) if found else None, deviation, len(found)


def _value(tree: Any, place: Sequence[str]) -> float | None:
    if isinstance(tree, list):
        found = [v for entry in tree if (v := _value(entry, place)) is not None]
        return statistics.fmean(found) if found else None
    if place:
        return _value(tree.get(place[0]), place[1:]) if isinstance(tree, dict) else None
    return float(tree) if isinstance(tree, int | float) else None


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


def curve(run: Run, kind: str, x: str, y: str) -> pd.DataFrame:
    """Columns x, y of the run's records of this kind that have both, by step; of a repeated step the last."""
    records = [r for r in run.metrics if r.get("kind") == kind and None not in (r.get(x), r.get(y))]
    frame = pd.DataFrame(records, columns=["step", "wall_s", y]).astype(float)
    back = frame["wall_s"].diff().clip(upper=0).fillna(0).cumsum()
    frame["wall_s"] -= back  # a resumed run's clock starts anew: go on where the one before it stopped
    chosen: pd.DataFrame = frame.drop_duplicates("step", keep="last").sort_values("step")[[x, y]]
    return chosen


def _axes(title: str, groups: Sequence[Group], x_label: str, y_label: str, width: float = 6.4) -> Axes:
    figure = Figure(figsize=(width, 4.2 + 0.25 * len(groups)), dpi=150, layout="constrained")
    methods = list(dict.fromkeys(m.replace(" ", "\N{NO-BREAK SPACE}") for group in groups for m in group.methods))
    named = ", ".join(methods[:4] + ([f"{len(methods) - 4} more"] if len(methods) > 4 else []))
    axes = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    axes.set_title(_plain(f"{title}\n{textwrap.fill(named, round(11 * width))}"), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    return axes


def _look(index: int) -> tuple[str, str]:
    return COLOURS[index % len(COLOURS)], DASHES[index % len(DASHES)]


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # no formulas in labels


def _validation(groups: Sequence[Group]) -> Axes:
    axes = _axes("Validation", groups, "step", "validation loss (bits per character)")
    for index, group in enumerate(groups):
        points = pd.concat([curve(run, "valid", "step", "bits_per_char") for run in group.runs])
        by_step, (colour, dash) = points.groupby("step")["bits_per_char"], _look(index)
        mean, sd = by_step.mean(), by_step.std()
        if len(mean):
            axes.plot(mean, color=colour, linestyle=dash, marker="o", markersize=4, label=_plain(group.label))
            axes.fill_between(mean.index, mean - sd, mean + sd, color=colour, alpha=0.2, linewidth=0)
    return axes


def _training(groups: Sequence[Group], x: str, x_label: str) -> Axes:
    axes = _axes("Training", groups, x_label, "training loss (nats per label)")
    for index, group in enumerate(groups):
        colour, dash = _look(index)
        curves = [c for run in group.runs if len(c := curve(run, "train", x, "loss"))]
        for number, points in enumerate(curves):
            smooth = points["loss"].rolling(max(5, len(points) // 15), center=True, min_periods=1).mean()
            label = _plain(group.label) if number == 0 else ""
            axes.plot(points[x], points["loss"], color=colour, alpha=0.25, linewidth=0.7)
            axes.plot(points[x], smooth, color=colour, linestyle=dash, label=label)
    return axes


def _utilisation(groups: Sequence[Group]) -> Axes:
    busy = [pd.DataFrame([_busy(run) for run in group.runs]).astype(float) * 100 for group in groups]
    stages = sorted({stage for frame in busy for stage in frame.columns})
    width = max(6.4, 0.16 * len(stages) * len(groups))
    axes = _axes("Utilisation", groups, "stage", "time not spent waiting (%)", width)
    for index, (group, frame) in enumerate(zip(groups, busy, strict=True)):
        at = [stage + 0.8 * (index + 0.5) / len(groups) - 0.4 for stage in frame.columns]
        hatch = HATCHES[index // len(COLOURS) % len(HATCHES)]
        axes.bar(
            at,
            frame.mean(),
            0.76 / len(groups),
            color=_look(index)[0],
            hatch=hatch,
            label=_plain(group.label),
        )
        axes.errorbar(at, frame.mean(), frame.std(), fmt="none", ecolor="#444444", capsize=2)
    axes.set(xticks=stages, ylim=(0, 105))
    return axes


def _busy(run: Run) -> dict[int, float | None]:
    return {entry["index"]: _value(entry, ["busy"]) for entry in (run.summary or {}).get("stage", [])}


def draw(groups: Sequence[Group], out: Path) -> dict[str, str]:
    """Write the figures that have data into `out`; captions by file name."""
    thin = "Thin: as recorded; thick: centred running mean; one line per run."
    drawn = {
        "valid.png": (_validation(groups), "Validation: mean over the runs, band of one standard deviation."),
        "train_step.png": (_training(groups, "step", "step"), f"Training loss by step. {thin}"),
        "train_seconds.png": (_training(groups, "wall_s", "time (s)"), f"Training loss by time. {thin}"),
        "utilisation.png": (
            _utilisation(groups),
            "Busy share of each stage: mean and one standard deviation.",
        ),
    }
    filled = {name: pair for name, pair in drawn.items() if pair[0].has_data()}
    for name, (axes, _) in filled.items():
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)  # below the axes, never on them
        figure.savefig(out / name, metadata={"Software": None})
    return {name: caption for name, (_, caption) in filled.items()}


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
