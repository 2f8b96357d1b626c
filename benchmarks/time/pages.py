"""The tables of the page on exact traces of the past, from the records."""

from __future__ import annotations

from typing import Any

from benchmarks.harness.markdown import markdown, source
from benchmarks.time import online as traces
from benchmarks.time import window_curve as curves


def online(results: dict[str, Any]) -> str:
    """Return all methods in time on tasks with late labels."""
    note = (
        f"Residual stacks of LRU blocks of {results['units']} units, batch {results['batch']}; mean ± standard "
        f"deviation over seeds. {source(results)}"
    )
    return f"{markdown(traces.HEADS, traces.lines(results['rows']))}\n\n{note}"


def online_trials(results: dict[str, Any]) -> str:
    """Return every trial of a learning rate with its validation figure."""
    rows = [[name, row.get("failed") or f"{row['bits']:.3f}"] for name, row in results["rows"].items()]
    note = f"After a quarter of the symbols, seed {results['seed']}: bits per label. {source(results)}"
    return f"{markdown(['task, method, rate', 'validation'], rows)}\n\n{note}"


def window_curve(results: dict[str, Any]) -> str:
    """Return validation bits of truncated backpropagation by window."""
    note = (
        f"{results['symbols']:,} symbols an update, {results['steps']} updates, {results['units']} units, seed 0; "
        f"validation bits. {source(results)}"
    )
    return f"{markdown(curves.HEADS, curves.lines(results['rows']))}\n\n{note}"
