"""The interactive charts of the report: figures of plotly, as plain data for its JavaScript library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from workers.reporting.aggregate import Group, unit_of, value
from workers.reporting.curves import AXES, points, smoothed
from workers.tracking.palette import COLOURS
from workers.tracking.run import Run

#: A figure: `data` (traces) and `layout`.
Chart = dict[str, Any]

DASHES = ("solid", "dash", "dashdot", "dot")

#: Figures of training records that have a histogram, with titles.
HISTOGRAMS = (
    ("staleness", "Staleness of targets (steps)"),
    ("cosine", "Cosine of predicted and target gradients, in depth"),
    ("time_cosine", "Cosine of predicted and target gradients, in time"),
)


def library() -> str | None:
    """Return the text of plotly's JavaScript library, or None if plotly is not installed."""
    found = find_spec("plotly")  # found, not imported: its Python code is not needed and slow to load
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def charts(groups: Sequence[Group]) -> list[Chart]:
    """Return the charts of one task that have data."""
    groups = [group for group in groups if group.runs]
    unit = unit_of(groups)
    losses = [
        _losses(groups, "valid", "loss" if unit else "bits_per_label", f"Validation loss ({unit or 'bits'} per label)"),
        _losses(groups, "train", "loss", f"Training loss ({unit or 'nats'} per label)"),
    ]
    more = [_histogram(groups, key, title) for key, title in HISTOGRAMS]
    return [chart for chart in (*losses, _busy(groups), *more) if chart["data"]]


def _losses(groups: Sequence[Group], kind: str, y: str, title: str) -> Chart:
    """Return curves of every run, with buttons for what they are drawn against and for the scale."""
    traces, tables = [], []
    for number, group in enumerate(groups):
        for run in group.runs:
            table = points(run, kind, y)
            if not len(table):
                continue
            if kind == "train":
                table[y] = smoothed(list(table[y]), max(2, len(table) // 30))
            traces.append(_line(number, group, run, table["step"], table[y], markers=kind == "valid"))
            tables.append(table)
    kept = [axis for axis in AXES if any(table[axis.key].notna().any() for table in tables)]
    against = [
        _button(axis.file, {"x": [_plain(table[axis.key]) for table in tables]}, {"xaxis.title.text": axis.label})
        for axis in kept
    ]
    scales = [_button(name, {}, {"yaxis.type": name}) for name in ("linear", "log")]
    layout = _layout(title, "step") | {"updatemenus": [_menu(against, 0.0), _menu(scales, 0.62)]}
    return {"data": traces, "layout": layout}


def _line(number: int, group: Group, run: Run, x: Any, y: Any, *, markers: bool) -> dict[str, Any]:
    first, named = run is group.runs[0], f"{_escaped(group.label)}, seed {(run.summary or {}).get('seed')}"
    return {
        "type": "scatter", "mode": "lines+markers" if markers else "lines", "x": _plain(x), "y": _plain(y),
        "name": group.label, "legendgroup": str(number), "showlegend": first,
        "line": {"color": _colour(number), "dash": DASHES[number % len(DASHES)], "width": 2},
        "hovertemplate": f"{named}<br>%{{x}}: %{{y:.4g}}<extra></extra>",
    }  # fmt: skip


def _busy(groups: Sequence[Group]) -> Chart:
    traces = []
    for number, group in enumerate(groups):
        rows = [{e["index"]: value(e, ["busy"]) for e in (run.summary or {}).get("stage", [])} for run in group.runs]
        table = pd.DataFrame(rows).astype(float) * 100
        mean, deviation = table.mean(), table.std()
        if mean.notna().any():
            traces.append({
                "type": "bar", "x": [f"stage {stage}" for stage in table.columns], "y": _plain(mean),
                "error_y": {"type": "data", "array": _plain(deviation.fillna(0)), "thickness": 1},
                "name": group.label, "legendgroup": str(number), "marker": {"color": _colour(number)},
            })  # fmt: skip
    return {"data": traces, "layout": _layout("Time not spent waiting (%)", "") | {"barmode": "group"}}


def _histogram(groups: Sequence[Group], key: str, title: str) -> Chart:
    traces = []
    for number, group in enumerate(groups):
        found = [
            r[key] for run in group.runs for r in run.metrics if r.get("kind") == "train" and r.get(key) is not None
        ]
        if found:
            traces.append({
                "type": "histogram", "x": found, "histnorm": "probability", "opacity": 0.6, "nbinsx": 40,
                "name": group.label, "legendgroup": str(number), "marker": {"color": _colour(number)},
                "showlegend": True,
            })  # fmt: skip
    layout = _layout(title, "of training records, all stages") | {"barmode": "overlay"}
    return {"data": traces, "layout": layout}


def _layout(title: str, x: str) -> dict[str, Any]:
    return {
        "title": {"text": title, "font": {"size": 15}, "x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top"},
        "xaxis": {"title": {"text": x}, "automargin": True}, "yaxis": {"automargin": True},
        "legend": {"orientation": "h", "y": -0.25, "yanchor": "top", "x": 0}, "height": 460,
        "margin": {"l": 50, "r": 15, "t": 85, "b": 40}, "hovermode": "closest",
    }  # fmt: skip


def _menu(buttons: list[dict[str, Any]], x: float) -> dict[str, Any]:
    return {
        "type": "buttons", "direction": "right", "buttons": buttons, "x": x, "xanchor": "left",
        "y": 1.02, "yanchor": "bottom", "pad": {"t": 0, "b": 4}, "font": {"size": 11, "color": "#1a1a1a"},
    }  # fmt: skip


def _button(label: str, data: dict[str, Any], layout: dict[str, Any]) -> dict[str, Any]:
    return {"label": label, "method": "update", "args": [data, layout]}


def _colour(number: int) -> str:
    colour = COLOURS[number % len(COLOURS)]
    return "#888888" if colour == "#000000" else colour  # black is not seen on a dark page


def _escaped(text: str) -> str:
    """Return text that plotly shows as it is: it reads some HTML."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("%{", "% {")


def _plain(values: Any) -> list[float | None]:
    return list(_numbers(values))


def _numbers(values: Any) -> Iterator[float | None]:
    for each in values:
        yield None if pd.isna(each) else float(f"{each:.6g}")
