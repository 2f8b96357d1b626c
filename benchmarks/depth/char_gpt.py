"""A GPT of characters in nanoGPT's configuration for a CPU, by every method in depth, beside the same model unsplit.

The model is that of examples/char_gpt: 4 layers, 128 wide, context 64, batch 12, 2,000 steps, AdamW with warm-up and a
cosine schedule, on the Penn Treebank in characters. It runs as 4 stages in 4 processes. Every method tries the same
learning rates in a shorter run on a seed that no result is made with; validation decides. Unsplit training and
pipelines take backprop's rate. Synthetic and delayed gradients are one step late on every edge (depth.lag=1), so every
run repeats bit for bit. At the end the time of a step is measured, one method after another on an idle machine.

DNI_PTB names the folder of the data. Finished cells are read from benchmarks/results, so an interrupted benchmark
continues where it stopped. QUICK=1 takes a few steps; they stay in outputs.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.methods import Overrides, folder
from benchmarks.harness.runs import Failed, composed, import_from, train
from benchmarks.harness.tuning import failed, need_data
from benchmarks.overhead.plain_loop import clip
from dni.data.base import Data
from dni.losses import summed_cross_entropy
from dni.types import IGNORED
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.cli.evaluate import evaluate, open_split
from workers.config.settings import Config

MODEL = Path(__file__).parents[2] / "examples" / "char_gpt"
SEEDS, TUNING_SEED = ((0,) if QUICK else (0, 1, 2)), 100
STEPS, TUNING_STEPS = (12, 8) if QUICK else (2000, 500)
RATES = ("1e-3",) if QUICK else ("1e-3", "2e-3", "4e-3", "8e-3")
BEYOND = 0 if QUICK else 2
GRID, TUNING = Grid("char-gpt", "char_gpt"), Grid("char-gpt-tuning", "char_gpt_tuning")
SPEED = Grid("char-gpt-speed", "char_gpt_speed")
#: The method whose rate another one takes.
TUNED_AS = {"unsplit": "backprop", "1f1b": "backprop"}
LATE = ("depth.lag=1",)
METHODS: dict[str, Overrides] = {
    "unsplit": ("depth=backprop", "transport=grpc"),
    "backprop": ("depth=backprop", "transport=grpc"),
    "1f1b": ("depth=1f1b", "transport=torch_distributed"),
    "local": ("depth=local", "transport=grpc"),
    "synthetic": ("depth=synthetic", "predictor=critic", "transport=grpc", *LATE),
    "delayed": ("depth=delayed", "transport=grpc", *LATE),
}


@dataclass(frozen=True)
class Cell:
    """One run: a method, its learning rate, a seed, and its number of steps."""

    method: str
    rate: str
    seed: int
    steps: int
    label: str

    @property
    def name(self) -> str:
        """The name in the results."""
        return f"{self.label}, seed {self.seed}"

    @property
    def overrides(self) -> Overrides:
        """The settings, as words of a command."""
        return (
            "model._target_=gpt.parts", "data=ptb", f"data.path={folder('text')}", "data.batch=12", "data.window=64",
            "data.sequence=null", "time=truncated", "stages=4", *METHODS[self.method], "launch=processes",
            "launch.torch_threads=1", "optimizer=adamw", f"optimizer.learning_rate={self.rate}",
            "optimizer.weight_decay=0.1", "optimizer.beta2=0.99", "optimizer.clip=1.0", "optimizer/schedule=cosine",
            f"optimizer.schedule.warmup_steps={min(100, self.steps // 4)}", "optimizer.schedule.final=0.1",
            f"steps={self.steps}", f"seed={self.seed}", "log_every=50", "checkpoint.every=null",
            f"evaluate.every={max(1, self.steps // 4)}", f"evaluate.windows={4 if QUICK else 50}",
        )  # fmt: skip


def main() -> None:
    """Choose the rates, run the unfinished cells, print the table and the bars."""
    need_data({"text"})
    import_from(MODEL)
    rates = tune()
    cells = [Cell(m, rates[TUNED_AS.get(m, m)], seed, STEPS, m) for seed in SEEDS for m in METHODS]
    rows = GRID.fill(cells, measure, lambda row: row.get("failed") or f"valid {row['valid']:.3f}")
    timed = [Cell(m, rates[TUNED_AS.get(m, m)], 0, STEPS // 10, m) for m in METHODS]
    speed = SPEED.fill(timed, step_time, lambda row: f"{row['ms']:.1f} ms", at_once=1)
    SPEED.keep(speed, [])
    table = Table(*HEADS)
    for line in lines(rows, speed):
        table.add_row(*line)
    Console(width=120).print(table)
    GRID.keep(rows, bars(rows))


def tune() -> dict[str, str]:
    """Return each method's best rate after a short run, by validation.

    If it is the largest or the smallest that was tried, twice or half of it is tried too, at most `BEYOND` times.
    """
    tried = {m: [trial(m, rate) for rate in RATES] for m in METHODS if m not in TUNED_AS}
    rows = _tried(tried)
    for _ in range(BEYOND):
        for cells in tried.values():
            best, rates = float(_best(cells, rows).rate), sorted(float(cell.rate) for cell in cells)
            if best in (rates[0], rates[-1]):
                cells.append(trial(cells[0].method, f"{best * (2 if best == rates[-1] else 0.5):g}"))
        rows = _tried(tried)
    return {m: _best(cells, rows).rate for m, cells in tried.items()}


def trial(method: str, rate: str) -> Cell:
    """Return a short run that tries a learning rate."""
    return Cell(method, rate, TUNING_SEED, TUNING_STEPS, f"{method}, rate {rate}")


def _tried(tried: dict[str, list[Cell]]) -> dict[str, Row]:
    every = [cell for cells in tried.values() for cell in cells]
    rows = TUNING.fill(every, partial(measure, tuning=True), lambda row: row.get("failed") or f"{row['valid']:.3f}")
    TUNING.keep({**TUNING.finished(), **rows}, [])
    return rows


def _best(cells: list[Cell], rows: dict[str, Row]) -> Cell:
    return min(cells, key=lambda cell: rows[cell.name].get("valid", float("inf")))


def measure(cell: Cell, tuning: bool = False) -> Row:
    """Train, then measure the parameters of the last step on the whole validation and test splits."""
    if cell.method == "unsplit":
        return unsplit(cell)
    at = (TUNING if tuning else GRID).folder(cell)
    try:
        summary = train(at, *cell.overrides, quiet=True)
    except Failed as error:
        return failed(error, cell.name)
    row: Row = {"valid": summary["valid"]["bits_per_label"], "rate": cell.rate}
    if not tuning:
        stages = summary["stage"]
        row |= {split: evaluate(at, split, "last")["bits_per_label"] for split in ("valid", "test")}
        row |= {"cosine": [stage["predictor_cosine"] for stage in stages[:-1]]}
    return row


def unsplit(cell: Cell) -> Row:
    """Train the whole model in a plain loop of torch, with the same windows, and clip where the stages do."""
    config, data = resolve(composed(*cell.overrides))
    whole = Unsplit(config)
    started = time.perf_counter()
    for _ in range(config.steps):
        window = data.train.next()
        whole.step(window.inputs, window.labels)
    seconds = time.perf_counter() - started
    splits = {name: whole.bits(data, name) for name in ("valid", "test")}
    return {**splits, "rate": cell.rate, "ms": 1000 * seconds / config.steps}


class Unsplit:
    """The four parts as one model with one optimizer, in the training loop that a user of torch writes."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.chains = build_chains(config)
        self.model = nn.Sequential(*(part for chain in self.chains for part in chain.children()))
        self.optimizer = config.optimizer.build(self.model.parameters())
        schedule = config.optimizer.schedule.build(self.optimizer, config.steps)
        assert schedule is not None, "cosine"
        self.schedule = schedule
        self.clip = config.optimizer.clip

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one training step."""
        loss = summed_cross_entropy(self.model(inputs), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for chain in self.chains:
            clip(list(chain.parameters()), labels.numel(), self.clip)
        self.optimizer.step()
        self.schedule.step()

    @torch.no_grad()
    def bits(self, data: Data, split: str) -> float:
        """Return the bits per character of a whole split."""
        source, windows = open_split(data, split)
        nats, count = 0.0, 0
        self.model.eval()
        for _ in range(windows):
            window = source.next()
            nats += summed_cross_entropy(self.model(window.inputs), window.labels).item()
            count += int((window.labels != IGNORED).sum())
        return nats / count / math.log(2)


def step_time(cell: Cell) -> Row:
    """Return the milliseconds of a training step, from a short run alone on the machine."""
    if cell.method == "unsplit":
        return {"ms": unsplit(cell)["ms"]}
    quiet = ("evaluate.every=null", "evaluate.windows=1")
    summary = train(SPEED.folder(cell), *cell.overrides, *quiet, quiet=True)
    return {"ms": 1000 / min(stage["steps_per_s"] for stage in summary["stage"])}


HEADS = ["method", "rate", "validation", "test", "by seed (validation)", "over backprop", "ms a step", "cosine by cut"]


def lines(rows: dict[str, Row], speed: dict[str, Row]) -> list[list[str]]:
    """Return the table: bits per character, mean and standard deviation over seeds."""
    groups, found = by_seed(rows), []
    reference = mean(groups["backprop"], "valid")
    for name in METHODS:
        good = [row for row in groups[name] if "valid" in row]
        ms = f"{speed[f'{name}, seed 0']['ms']:.1f}"
        if not good:
            found.append([name, groups[name][0].get("rate", ""), "diverged", "", "", "", ms, ""])
            continue
        valid = [row["valid"] for row in good]
        cosine = [row.get("cosine", [None]) for row in good]
        found.append([
            name, good[0]["rate"], spread(valid, 3), spread([row["test"] for row in good], 3),
            " ".join(f"{value:.3f}" for value in valid), f"{100 * (statistics.mean(valid) / reference - 1):+.1f} %", ms,
            " ".join("" if None in cut else f"{statistics.mean(cut):.2f}" for cut in zip(*cosine, strict=True)).strip(),
        ])  # fmt: skip
    return found


def mean(rows: list[Row], key: str) -> float:
    """Return the mean over the runs that did not diverge."""
    values: list[float] = [row[key] for row in rows if key in row]
    return statistics.mean(values)


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return the largest difference between split and unsplit training: backprop is equal bit for bit."""
    groups = by_seed(rows)
    found = []
    for name, limit in (("backprop", 0.0), ("1f1b", 0.01)):
        pairs = zip(groups[name], groups["unsplit"], strict=True)
        value = max(abs(one["valid"] - other["valid"]) for one, other in pairs)
        found.append(bar(f"{name}: largest difference from unsplit, bits", value, limit, value <= limit))
    return found


if __name__ == "__main__":
    main()
