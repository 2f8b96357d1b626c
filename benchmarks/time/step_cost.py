"""The cost of a synthetic step over a truncated one: one LSTM layer, one process, by window and predictor.

The same stage trains on the same windows with no predictor, a plain regressor (the paper's) or a critic at its cut in
time. The variants take turns of a few steps; ratios are those within one turn, and the figure is their median. QUICK=1
takes few turns, whose figures mean little, and writes to outputs/bench-step-cost/ instead of benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.time.memory_probe import take_step
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.models import Lstm, ModelContext
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.stages.base import Stage

QUICK = os.environ.get("QUICK") == "1"
OUT = Path("outputs/bench-step-cost") if QUICK else RESULTS
WINDOWS = (4, 8, 32)
TURNS, STEPS = (3, 2) if QUICK else (40, 10)
SYMBOLS, UNITS, BATCH, HIDDEN, FUTURE_LABELS = 50, 256, 32, 256, 32
TRUNCATED, PLAIN, CRITIC = "truncated", "plain regressor", "critic"
GOALS = {(PLAIN, 8): 1.35, (PLAIN, 32): 1.15}

console = Console(width=max(Console().width, 100))


def main() -> None:
    """Measure, print the table and the bars, write the results."""
    torch.set_num_threads(1)
    rows = [row(window) for window in WINDOWS]
    show(rows)
    results = {
        "symbols": SYMBOLS, "units": UNITS, "batch": BATCH, "hidden": HIDDEN, "future_labels": FUTURE_LABELS,
        "turns": TURNS, "steps": STEPS, "seed": 0, "environment": environment(), "rows": rows, "bars": bars(rows),
    }  # fmt: skip
    write(OUT / "step_cost.json", results)


def row(window: int) -> dict[str, Any]:
    """Return each variant's median milliseconds per step and median ratio to truncation, at one window."""
    variants = {TRUNCATED: variant(window, None), PLAIN: variant(window, PLAIN), CRITIC: variant(window, CRITIC)}
    for take in variants.values():  # warm-up: loads and allocates
        take()
    turns = [{name: seconds(take) for name, take in variants.items()} for _ in range(TURNS)]
    return {
        "window": window,
        "ms": {name: 1000 * statistics.median(turn[name] for turn in turns) for name in variants},
        "ratio": {name: statistics.median(turn[name] / turn[TRUNCATED] for turn in turns) for name in variants},
    }


def variant(window: int, predictor: str | None) -> Callable[[], None]:
    """Return a function that takes the next training step, on windows drawn beforehand."""
    stage, cut, loss = stage_of(), cut_of(predictor), LossInterface()
    data = [drawn(n, window) for n in range(20)]
    step = 0

    def take() -> None:
        nonlocal step
        step += 1
        inputs, labels, future = data[step % len(data)]
        take_step(stage, cut, loss, step, inputs, labels, future)

    return take


def stage_of() -> Stage:
    """Build the layer with its embedding and softmax, from a fixed seed."""
    torch.manual_seed(0)
    chain = Lstm(units=UNITS, layers=1).build(ModelContext(SYMBOLS))
    return Stage(chain, torch.optim.Adam(chain.parameters(), 1e-3, fused=True), clip=1.0, first=True)


def cut_of(predictor: str | None) -> Interface:
    """Build the cut in time; the state is hidden and cell."""
    if predictor is None:
        return ZeroInterface()
    if predictor == PLAIN:
        return DecoupledInterface(Regressor(2 * UNITS, hidden=HIDDEN))
    return DecoupledInterface(SoftmaxCritic(2 * UNITS, classes=SYMBOLS, future_labels=FUTURE_LABELS, hidden=HIDDEN))


def drawn(n: int, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return random inputs (B, T), labels (B, T) and the L labels after them."""
    ids = torch.randint(SYMBOLS, (BATCH, window + 1 + FUTURE_LABELS), generator=torch.Generator().manual_seed(n))
    return ids[:, :window], ids[:, 1 : window + 1], ids[:, window + 1 :]


def seconds(take: Callable[[], None]) -> float:
    """Return the mean seconds of a few steps."""
    started = time.perf_counter()
    for _ in range(STEPS):
        take()
    return (time.perf_counter() - started) / STEPS


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(
        "T", *(f"{name} (ms)" for name in rows[0]["ms"]), *(f"{name} / truncated" for name in (PLAIN, CRITIC))
    )
    for each in rows:
        ratios = (f"{each['ratio'][name]:.2f}" for name in (PLAIN, CRITIC))
        table.add_row(str(each["window"]), *(f"{ms:.2f}" for ms in each["ms"].values()), *ratios)
    console.print(table)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every ratio as a line of JSON."""
    found = []
    for each in rows:
        for name in (CRITIC, PLAIN):
            goal, ratio = GOALS.get((name, each["window"])), each["ratio"][name]
            holds = None if goal is None else ratio <= goal
            found.append(bar(f"{name}, T={each['window']}: step over a truncated one", ratio, goal, holds))
    return found


if __name__ == "__main__":
    main()
