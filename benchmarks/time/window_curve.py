"""Does the window matter on text? Truncated backpropagation on the Penn Treebank, by window, model and depth.

Every update sees 4,096 symbols for every window T (B = 4,096 / T), and all runs see as many symbols. One seed; learning
rates are those that the models have in other benchmarks. The last parameters are measured on the validation split: this
chooses a task, it is no result of a method.

DNI_PTB names the folder of the data. Finished cells are read from benchmarks/results/window_curve.json, so an
interrupted benchmark continues. QUICK=1 takes few steps; they stay in outputs/bench-window-curve/quick/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row
from benchmarks.harness.methods import Overrides, folder
from benchmarks.harness.runs import Failed, train
from benchmarks.harness.tuning import need_data

SYMBOLS, STEPS, UNITS = (512, 12, 16) if QUICK else (4096, 500, 128)
WINDOWS = (8, 16, 32) if QUICK else (8, 32, 128, 512)
DEPTHS = (2,) if QUICK else (2, 4)
MODELS: dict[str, Overrides] = {
    "LSTM": ("model=lstm", "optimizer.learning_rate=8e-3"),
    "LRU": ("model=residual", "model.cell=lru", "model.smallest=0.9", "optimizer.learning_rate=4e-3"),
    "minGRU": ("model=residual", "model.cell=mingru", "optimizer.learning_rate=4e-3"),
}
GRID = Grid("window-curve", "window_curve", {"symbols": SYMBOLS, "steps": STEPS, "units": UNITS})
HEADS = ["model", "layers", *(f"T = {window}" for window in WINDOWS), f"gain from {WINDOWS[0]} to {WINDOWS[-2]}"]
GOAL = 0.02  # share of the bits


@dataclass(frozen=True)
class Cell:
    """One run."""

    model: str
    layers: int
    window: int

    @property
    def name(self) -> str:
        """The run's name in the results."""
        return f"{self.model}, {self.layers} layers, T={self.window}"

    @property
    def overrides(self) -> Overrides:
        """The run's settings as typed."""
        return (
            "data=ptb", f"data.path={folder('text')}", *MODELS[self.model], f"model.layers={self.layers}",
            f"model.units={UNITS}", f"data.window={self.window}", f"data.batch={SYMBOLS // self.window}",
            "time=truncated", "depth=backprop", "optimizer=adamw", "optimizer/schedule=cosine", f"steps={STEPS}",
            "stages=1", "transport=local", "launch=threads", "launch.torch_threads=1", "seed=0", "log_every=50",
            "evaluate.every=null", f"evaluate.windows={4 if QUICK else 100}", "checkpoint.every=null",
        )  # fmt: skip


def main() -> None:
    """Run what is not finished, and print the table and the largest gain."""
    need_data({"text"})
    cells = [Cell(model, layers, window) for model in MODELS for layers in DEPTHS for window in WINDOWS]
    rows = GRID.fill(cells, measure, lambda row: f"{row['bits']:.3f} bits, {row['wall_s']:.0f} s")
    table = Table(*HEADS)
    for line in lines(rows):
        table.add_row(*line)
    Console(width=120).print(table)
    GRID.keep(rows, bars(rows))


def measure(cell: Cell) -> Row:
    """Train, and return the validation bits of the last parameters."""
    try:
        summary = train(GRID.folder(cell), *cell.overrides, quiet=True)
    except Failed as error:
        raise SystemExit(f"{cell.name}: {error}; see {GRID.folder(cell)}") from error
    return {"bits": summary["valid"]["bits_per_label"], "wall_s": summary["wall_s"]}


def gain(rows: dict[str, Row], model: str, layers: int) -> float | None:
    """Return the share of the bits at the shortest window that the one before the longest saves."""
    short, long = (rows.get(Cell(model, layers, window).name) for window in (WINDOWS[0], WINDOWS[-2]))
    return None if short is None or long is None else 1 - long["bits"] / short["bits"]


def lines(rows: dict[str, Row]) -> list[list[str]]:
    """Return the table: validation bits by model and window."""
    found = []
    for model in MODELS:
        for layers in DEPTHS:
            every = [rows.get(Cell(model, layers, window).name) for window in WINDOWS]
            saved = gain(rows, model, layers)
            if saved is not None:
                bits = ["" if row is None else f"{row['bits']:.3f}" for row in every]
                found.append([model, str(layers), *bits, f"{100 * saved:+.1f} %"])
    return found


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return the largest gain of a longer window, and of which model."""
    gains = {(m, n): saved for m in MODELS for n in DEPTHS if (saved := gain(rows, m, n)) is not None}
    model, layers = max(gains, key=lambda key: gains[key])
    name = f"share of bits saved from T={WINDOWS[0]} to T={WINDOWS[-2]}, at most: {model}, {layers} layers"
    return [bar(name, gains[model, layers], GOAL, gains[model, layers] >= GOAL)]


if __name__ == "__main__":
    main()
