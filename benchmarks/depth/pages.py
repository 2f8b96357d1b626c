"""The tables of the pages on cuts in depth, from the records."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.depth import char_gpt as gpts
from benchmarks.depth import late_ablations as ablated
from benchmarks.depth import late_tables as lates
from benchmarks.depth import methods as depths
from benchmarks.depth import staleness as lags
from benchmarks.harness.environment import RESULTS
from benchmarks.harness.markdown import markdown, source


def depth(results: dict[str, Any]) -> str:
    """Return all methods in depth, three seeds."""
    speed = json.loads((RESULTS / "depth_speed.json").read_text(encoding="utf-8"))["rows"]
    note = (
        f"Test split, mean ± standard deviation over seeds; `depth.lag={results['lag']}` where gradients can be late. "
        f"A step is one of all stages, in threads of one process. {source(results)}"
    )
    return f"{markdown(depths.HEADS, depths.lines(results['rows'], speed))}\n\n{note}"


def char_gpt(results: dict[str, Any]) -> str:
    """Return the GPT of characters, by every method in depth."""
    speed = json.loads((RESULTS / "char_gpt_speed.json").read_text(encoding="utf-8"))["rows"]
    note = f"Mean ± standard deviation over seeds. {source(results)}"
    return f"{markdown(gpts.HEADS, gpts.lines(results['rows'], speed))}\n\n{note}"


def variants(results: dict[str, Any]) -> str:
    """Return the variants, one seed each."""
    note = f"Seed 0. {source(results)}"
    return f"{markdown(depths.EXTRA_HEADS, depths.extra_lines(results['rows']))}\n\n{note}"


def trials(results: dict[str, Any]) -> str:
    """Return every tuning trial with its validation figure."""
    rows = [[name, row.get("failed") or f"{row['score']:.3f}"] for name, row in results["rows"].items()]
    note = f"After the short run, seed {results['seed']}: bits, or error in percent. {source(results)}"
    return f"{markdown(['task, method, setting', 'validation'], rows)}\n\n{note}"


def lag(results: dict[str, Any]) -> str:
    """Return the cost of late targets, by method."""
    chosen = f"recipes chosen at lag {results['tuned_at']}"
    note = f"Test split, mean ± standard deviation over seeds; {chosen}. {source(results)}"
    return f"{markdown(lags.HEADS, lags.lines(results['rows']))}\n\n{note}"


def late(results: dict[str, Any]) -> str:
    """Return all methods under late gradients."""
    costs = json.loads((RESULTS / "late_compute.json").read_text(encoding="utf-8"))["rows"]
    note = (
        f"Test split, mean ± standard deviation over seeds; recipes chosen at lag {results['tuned_at']}. Compute of a "
        f"step: processor time of all stages, over backprop's. {source(results)}"
    )
    return f"{markdown(lates.HEADS, lates.lines(results['rows'], costs))}\n\n{note}"


def late_equal(results: dict[str, Any]) -> str:
    """Return methods at equal compute."""
    note = f"Test split, mean ± standard deviation over seeds; lag {results['tuned_at']}. {source(results)}"
    return f"{markdown(lates.EQUAL_HEADS, lates.equal_lines(results['rows']))}\n\n{note}"


def late_ablations(results: dict[str, Any]) -> str:
    """Return the variants of corrected synthetic gradients."""
    costs = json.loads((RESULTS / "late_ablations_compute.json").read_text(encoding="utf-8"))["rows"]
    note = f"Test split, seed 0, lag 8; memory of the process with all stages. {source(results)}"
    return f"{markdown(ablated.HEADS, ablated.lines(results['rows'], costs))}\n\n{note}"
