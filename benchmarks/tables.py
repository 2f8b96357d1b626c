"""Write the tables of README.md, docs/reliability.md and docs/results, and README's figure, from the records in
benchmarks/results: `make tables`.

`--check` writes nothing and exits with code 1 if something is not current.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import headline
from benchmarks.chaos.pages import bars_table, faults_table, runs_table
from benchmarks.delay.pages import delay_line, gpt, links_cells, links_rates, race, reach
from benchmarks.depth.pages import char_gpt, depth, lag, late, late_ablations, late_equal, trials, variants
from benchmarks.harness.environment import RESULTS
from benchmarks.harness.grid import by_seed, spread
from benchmarks.harness.markdown import markdown, source
from benchmarks.overhead import split_vs_plain as splits
from benchmarks.overhead import transport as links
from benchmarks.overhead.compiled import bits_table, compiled_table
from benchmarks.time import copy_task as copies
from benchmarks.time import ptb as reading
from benchmarks.time.pages import online, online_trials, window_curve

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "reliability.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]


def demo(results: dict[str, Any]) -> str:
    """Return the demonstration's table."""
    delay = results["delay_ms"]
    heads = [
        "depth + time", "bits/char, 0 ms", f"bits/char, {delay} ms", "char/s, 0 ms", f"char/s, {delay} ms",
        "busy per stage, 0 ms", f"busy per stage, {delay} ms", "staleness, 0 ms", f"staleness, {delay} ms",
    ]  # fmt: skip
    rows = [
        [
            line["method"], f"{line['valid_bits']:.3f}", f"{line['valid_bits_slow']:.3f}",
            f"{line['characters_per_s']:,.0f}", f"{line['characters_per_s_slow']:,.0f}",
            percents(line["busy"]), percents(line["busy_slow"]), ages(line["staleness"]), ages(line["staleness_slow"]),
        ]
        for line in results["rows"]
    ]  # fmt: skip
    rows += [
        [f"{name}, counted", f"{bits:.3f}", "", "", "", "", "", "", ""] for name, bits in results["ngrams"].items()
    ]
    note = (
        f"4-stage character LSTM (128 units), 4 processes over gRPC, W = 8, {results['steps']} steps, seed "
        f"{results['seed']}; rates at {delay} ms one-way delay over {results['slow_steps']} steps without warm-up. "
        f"{source(results)} "
        f"Text sha256 `{results['rows'][0]['sha256'][:16]}…`."
    )
    return f"{markdown(heads, rows)}\n\n{note}"


def machinery(results: dict[str, Any]) -> str:
    """Return the cost of splitting, and of the codec."""
    batch = f", B = {results['batch']}" if "batch" in results else ""
    note = (
        f"The demonstration's model{batch}, {results['steps']} steps, medians of {results['repeats']} interleaved "
        f"repeats, seed {results['seed']}, one torch thread per worker. {source(results)}"
    )
    tables = (markdown(heads, rows) for heads, rows in splits.lines(results["rows"], results["codec"]))
    return "\n\n".join((*tables, note))


def transport(results: dict[str, Any]) -> str:
    """Return the throughput of links, with shares of raw TCP."""
    note = (
        f"In brackets: share of raw TCP's speed in that repeat. Medians of {results['repeats']} interleaved repeats, "
        f"one torch thread. {source(results)}"
    )
    tables = (markdown(heads, rows) for heads, rows in links.lines(results["rows"]))
    return "\n\n".join((*tables, note))


def copying(results: dict[str, Any]) -> str:
    """Return the copy tasks."""
    note = (
        f"Longest length solved in {results['max_timesteps']:,} time steps per stream, mean ± standard deviation (*: "
        f"diverged later). {source(results)}"
    )
    return f"{markdown(copies.HEADS, copies.lengths(results['rows']))}\n\n{note}"


def alignment(results: dict[str, Any]) -> str:
    """Return synthetic against exact gradients."""
    note = f"Copy, T = 4: medians over a probe every 500 windows and all seeds. {source(results)}"
    return f"{markdown(copies.ALIGNED, copies.alignment(results['rows']))}\n\n{note}"


def fixed(results: dict[str, Any]) -> str:
    """Return the copy task at one fixed length."""
    note = (
        f"Copy, T = 4, sequences of {results['fixed']} steps from the first update on, {results['max_timesteps']:,} "
        f"time steps per stream; on fresh sequences. Chance is 1, but for the closing mark. {source(results)}"
    )
    return f"{markdown(copies.FIXED_HEADS, copies.fixed(results['rows']))}\n\n{note}"


def ptb(results: dict[str, Any]) -> str:
    """Return the Penn Treebank results."""
    note = f"{results['symbols']:,} symbols per update, mean ± standard deviation over seeds. {source(results)}"
    return f"{markdown(reading.HEADS, reading.lines(results['rows']))}\n\n{note}"


def flagship(results: dict[str, Any]) -> str:
    """Return the results with cuts in depth and in time."""
    rows = [
        [method, spread([r["solved"] for r in found]), " ".join(f"{r['solved']:.0f}" for r in found),
         spread([r["wall_s"] for r in found])]
        for method, found in by_seed(results["rows"]).items()
    ]  # fmt: skip
    note = f"{results['max_timesteps']:,} time steps per stream. {source(results)}"
    return f"{markdown(['depth + time', 'length', 'by seed', 'seconds'], rows)}\n\n{note}"


def memory(results: dict[str, Any]) -> str:
    """Return the memory beyond the start, by method in time and length."""
    lengths = [point["steps"] for point in results["rows"][0]["points"]]
    rows = [
        [
            f"`time={row['method']}`",
            *("not run" if p["extra_mb"] is None else f"{p['extra_mb']:,.1f}" for p in row["points"]),
        ]
        for row in results["rows"]
    ]
    note = (
        f"MB beyond the start. One LSTM layer of {results['units']} units, {results['symbols']} symbols, B = "
        f"{results['batch']}, T (and chunk) = {results['window']}; a fresh process each, stopped where more than "
        f"{results['limit_mb'] / 1000:g} GB would be held. {source(results)}"
    )
    return f"{markdown(['steps of the sequence', *(f'{n:,}' for n in lengths)], rows)}\n\n{note}"


def step_cost(results: dict[str, Any]) -> str:
    """Return the cost of a synthetic step relative to a truncated one."""
    synthetic = [name for name in results["rows"][0]["ratio"] if name != "truncated"]
    rows = [
        [
            str(row["window"]), f"{row['ms']['truncated']:.1f} ms",
            *(f"{row['ms'][name]:.1f} ms ({row['ratio'][name]:.2f})" for name in synthetic),
        ]
        for row in results["rows"]
    ]  # fmt: skip
    note = (
        f"In brackets: over truncation. One LSTM layer of {results['units']} units, {results['symbols']} symbols, B = "
        f"{results['batch']}; regressor and critic with {results['hidden']} hidden units, critic of the next "
        f"{results['future_labels']} labels; medians of {results['turns']} turns of {results['steps']} steps, one "
        f"torch thread. {source(results)}"
    )
    return f"{markdown(['T', 'truncated', *synthetic], rows)}\n\n{note}"


def ages(staleness: list[float | None]) -> str:
    """Format the stages' mean staleness, in steps."""
    return " / ".join("-" if age is None else f"{age:.1f}" for age in staleness)


def percents(shares: list[float]) -> str:
    """Format busy fractions, in percent."""
    return " / ".join(f"{share:.0%}" for share in shares)


#: mark in a page: (name of the results, function that makes the table)
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "headline": ("race", headline.headline), "demo": ("demo", demo),
    "depth": ("depth", depth), "char_gpt": ("char_gpt", char_gpt), "variants": ("depth", variants),
    "trials": ("depth_tuning", trials), "lag": ("lag", lag), "late": ("late", late), "late_equal": ("late", late_equal),
    "late_ablations": ("late_ablations", late_ablations), "late_trials": ("late_tuning", trials),
    "machinery": ("machinery", machinery), "transport": ("transport", transport),
    "copying": ("copying", copying),
    "alignment": ("copying", alignment), "fixed": ("copying", fixed), "ptb": ("ptb", ptb),
    "links_rates": ("links", links_rates), "links_cells": ("links", links_cells), "race": ("race", race),
    "reach": ("reach", reach), "gpt_race": ("gpt_race", gpt),
    "online": ("online", online), "online_trials": ("online_tuning", online_trials),
    "window_curve": ("window_curve", window_curve),
    "flagship": ("flagship", flagship), "memory": ("memory", memory), "step_cost": ("step_cost", step_cost),
    "delay_line": ("emulated_links", delay_line),
    "compiled": ("compiled", compiled_table), "sixteen_bits": ("compiled", bits_table),
    "chaos_bars": ("chaos", bars_table), "chaos_faults": ("chaos", faults_table), "chaos_runs": ("chaos", runs_table),
}  # fmt: skip


def filled(text: str) -> str:
    """Return the text with every marked table rebuilt; a table without results stays."""
    for mark, (name, table) in TABLES.items():
        file = RESULTS / f"{name}.json"
        if file.is_file() and f"<!-- {mark} -->" in text:
            before, rest = text.split(f"<!-- {mark} -->")
            _, after = rest.split(f"<!-- /{mark} -->")
            block = table(json.loads(file.read_text(encoding="utf-8")))
            text = f"{before}<!-- {mark} -->\n{block}\n<!-- /{mark} -->{after}"
    return text


def main() -> int:
    """Write all tables, or return 1 if `--check` finds one or the figure not current."""
    check, stale = "--check" in sys.argv[1:], False
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        new = filled(text)
        stale |= new != text
        if not check:
            document.write_text(new, encoding="utf-8")
    if not check:
        headline.draw()
    return int(check and (stale or not headline.is_current()))


if __name__ == "__main__":
    sys.exit(main())
