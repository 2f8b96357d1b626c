"""The sequence length learned per number of symbols: the paper's copy and repeat copy tasks, by method and window.

One LSTM layer of 64 units; the curriculum lengthens the sequences whenever a batch is below 0.15 bits per symbol. Each
cell is one task, window, method and seed. Finished cells are read from benchmarks/results/copying.json, so an
interrupted benchmark continues. On copy at T=4 the gradients are also compared with exact ones, on sequences of the
length being learned, and sequences of one fixed length are learned too. QUICK=1 takes few symbols; they stay in
outputs/bench-copy/quick/.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK, Grid, Row, by_seed, spread
from benchmarks.harness.runs import Failed, train
from workers.tracking.run import METRICS, read_metrics

MAX_TIMESTEPS = 400 if QUICK else 40_000
SEEDS = (0,) if QUICK else (0, 1, 2)
FUTURE_LABELS = 32
HORIZON = 4
FIXED = 23  # steps: ten bits
GRID = Grid("copy", "copying", {"max_timesteps": MAX_TIMESTEPS, "fixed": FIXED})

FAST = "optimizer.learning_rate=6e-3"  # default rates: those of experiment=copy, 3e-3 and 1e-3
CRITIC = ("time=synthetic", "predictor=critic", "predictor.time.hidden=256", FAST)
PLAIN = (
    "time=synthetic", "predictor=mlp", "predictor.time.hidden=256", "predictor.time.learning_rate=3e-4",
    "predictor.time.steps_per_target=4", "optimizer.accumulate=8",
)  # fmt: skip

#: Settings that distinguish the methods; each has one recipe for both tasks and every window.
METHODS: dict[str, tuple[str, ...]] = {
    "truncated": ("time=truncated",),
    "critic": CRITIC,
    "critic, streaming": (*CRITIC, "predictor=soft_label_critic", f"predictor.time.history={FUTURE_LABELS}"),
    "plain": PLAIN,
    "plain + auxiliary": (*PLAIN, "time=auxiliary", "time.auxiliary=0.1", "time.hidden=256"),
    "plain, lambda": (*PLAIN, "time=lambda_return", f"time.horizon={HORIZON}", "time.lambda_=0.9"),
    "critic, loss alone": (*CRITIC, "predictor.time.gradient_weight=0"),
    "full": ("time=full", FAST),
    "oracle": ("time=oracle", FAST),
}
CORE = (("copy", 4), ("copy", 2), ("repeat_copy", 4), ("copy", 8))


@dataclass(frozen=True)
class Cell:
    """One run; `length` of every sequence, None for the curriculum."""

    task: str
    window: int
    method: str
    seed: int
    length: int | None = None

    @property
    def name(self) -> str:
        """The run's name in the results."""
        fixed = "" if self.length is None else f" of {self.length}"
        return f"{self.task}{fixed}, T={self.window}, {self.method}, seed {self.seed}"

    @property
    def overrides(self) -> tuple[str, ...]:
        """The run's settings as typed."""
        method = METHODS["truncated" if self.method.startswith("truncated") else self.method]
        fixed = () if self.length is None else (f"data.length={self.length}",)
        probed = (self.task, self.window, self.length) == ("copy", 4, None) and self.method not in ("full", "oracle")
        return (
            "experiment=copy", f"data={self.task}", *method, f"predictor.time.future_labels={FUTURE_LABELS}",
            f"data.window={self.window}", f"seed={self.seed}", f"max_timesteps={MAX_TIMESTEPS}",
            "launch.torch_threads=1", "checkpoint.every=null", f"log_every={max(1, 400 // self.window)}", *fixed,
            *(("evaluate.probe=500", "evaluate.probe_windows=16") if probed else ()),
        )  # fmt: skip


def plan() -> list[Cell]:
    """Return the cells of the tables, the most important first."""
    if QUICK:
        return [Cell("copy", 4, method, 0) for method in ("truncated", "critic")]
    main = ("truncated", "critic", "critic, streaming")
    cells = [Cell(*at, method, seed) for at in CORE for seed in SEEDS for method in main]
    cells += [Cell(*at, "plain", seed) for at in reversed(CORE) for seed in SEEDS]
    more = ("full", "critic, loss alone", "plain + auxiliary", "plain, lambda")
    cells += [Cell("copy", 4, method, seed) for method in more for seed in SEEDS]
    cells += [Cell("repeat_copy", 4, method, seed) for method in ("critic, loss alone", "full") for seed in SEEDS]
    cells += [Cell(task, 4 + FUTURE_LABELS, "truncated at T+L", s) for task in ("copy", "repeat_copy") for s in SEEDS]
    cells += [Cell("copy", 4, "oracle", seed) for seed in SEEDS]
    return cells + [Cell("copy", 4, method, seed, FIXED) for method in (*main, "plain", "full") for seed in SEEDS]


def main() -> None:
    """Run what is not finished, two at a time, print the tables and the bars."""
    rows = GRID.fill(plan(), measure, lambda row: f"length {row['solved']}, {row['wall_s']:.0f} s")
    console = Console(width=140)
    for title, heads, lines in (
        (f"Longest length solved in {MAX_TIMESTEPS:,} time steps per stream", HEADS, lengths(rows)),
        ("Gradients against exact ones, on the length being learned", ALIGNED, alignment(rows)),
        (f"Sequences of {FIXED} steps", FIXED_HEADS, fixed(rows)),
    ):
        table = Table(*heads, title=title)
        for line in lines:
            table.add_row(*line)
        console.print(table)
    GRID.keep(rows, bars(rows))


def measure(cell: Any, grid: Grid = GRID) -> Row:
    """Run one cell; return each solved length with time steps per stream and seconds, and the probes' figures."""
    folder = grid.folder(cell)
    summary: dict[str, Any] = {}
    try:
        summary = train(folder, *cell.overrides, quiet=True)
    except Failed as error:
        if "DivergedError" not in str(error):
            raise SystemExit(f"{cell.name}: {error}; see {folder}") from error
    records = read_metrics(folder / METRICS)
    curve = solved(records)
    return {
        "solved": curve[-1][0] if curve else 0,
        "curve": curve,
        "diverged": not summary,
        "wall_s": records[-1]["wall_s"],
        "windows": records[-1]["step"],
        "cosine": summary["stage"][0]["time_cosine"] if summary else None,
        "bits": (summary.get("valid") or {}).get("bits_per_label"),
        "probes": [{key: r[key] for key in PROBED} for r in records if r["kind"] == "probe"],
    }


def solved(records: list[Any]) -> list[list[float]]:
    """Return [length, time steps per stream, seconds] at every solved length."""
    curve: list[list[float]] = []
    for record in records:
        if record.get("solved_length", 0) > (curve[-1][0] if curve else 0):
            curve.append([record["solved_length"], record["timesteps"], record["wall_s"]])
    return curve


def solved_within(row: Row, seconds: float) -> float:
    """Return the longest length solved within `seconds`."""
    return max((length for length, _, at in row["curve"] if at <= seconds), default=0)


def parts(group: str) -> tuple[str, int, str]:
    """Return task, window and method from a group's name."""
    task, window, method = group.split(", ", 2)
    return task, int(window.removeprefix("T=")), method


def held(window: int, method: str) -> str:
    """Return the time steps with kept activations, and the symbols, that a method keeps at once."""
    if method in ("full", "oracle"):
        return "N / N"
    steps = HORIZON * window if "lambda" in method else window
    ahead = FUTURE_LABELS if method.startswith("critic") else 0
    return f"{steps} / {steps + ahead * (2 if 'streaming' in method else 1)}"


HEADS = [
    "task", "T", "method", "length", "by seed", "length in truncated's time", "seconds", "cosine at the cut",
    "time steps / symbols held",
]  # fmt: skip


def lengths(rows: dict[str, Row]) -> list[list[str]]:
    """Return mean and spread over seeds, at equal symbols and at truncation's seconds."""
    lines = []
    for group, members in sorted(by_seed(rows).items(), key=lambda item: parts(item[0])[:2]):
        task, window, method = parts(group)
        if " of " in task:
            continue
        clocks = [(row, rows.get(f"{task}, T={window}, truncated, seed {row['seed']}")) for row in members]
        in_time = [solved_within(row, truncated["wall_s"]) for row, truncated in clocks if truncated]
        cosines = [row["cosine"] for row in members if row.get("cosine") is not None]
        lines.append([
            task, str(window), method, spread([row["solved"] for row in members]),
            " ".join(f"{row['solved']:.0f}{'*' * row.get('diverged', False)}" for row in members), spread(in_time),
            f"{statistics.mean(row['wall_s'] for row in members):.0f}",
            f"{statistics.mean(cosines):.2f}" if cosines else "-", held(window, method),
        ])  # fmt: skip
    return lines


PROBED = ("time_cosine", "time_r2", "time_norm", "parameters", "truncated")
ALIGNED = ["method", "cosine at the cuts", "R² at the cuts", "norm ratio", "cosine on the parameters", "truncation's"]


def alignment(rows: dict[str, Row]) -> list[list[str]]:
    """Return medians over all probes and seeds."""
    lines = []
    for group, members in by_seed(rows).items():
        probes = [probe for row in members for probe in row.get("probes", [])]
        if probes:
            columns = [[probe[key] for probe in probes if probe[key] is not None] for key in PROBED]
            shown = [f"{statistics.median(column):.2f}" if column else "-" for column in columns]
            lines.append([parts(group)[2], *shown])
    return lines


FIXED_HEADS = ["method", "bits per symbol at the end", "by seed", "seconds"]


def fixed(rows: dict[str, Row]) -> list[list[str]]:
    """Return final bits on fresh sequences; chance is 1 except at the closing mark."""
    return [
        [parts(group)[2], spread(bits := [row["bits"] for row in members if row["bits"] is not None], 3),
         " ".join(f"{b:.3f}" for b in bits),
         f"{statistics.mean(row['wall_s'] for row in members):.0f}"]
        for group, members in by_seed(rows).items() if " of " in parts(group)[0]
    ]  # fmt: skip


def bars(rows: dict[str, Row]) -> list[dict[str, Any]]:
    """Return the ratios of synthetic to truncated and full, means over seeds."""
    means = {group: statistics.mean(row["solved"] for row in members) for group, members in by_seed(rows).items()}

    def ratio(at: str, ours: str, reference: str) -> float | None:
        ours, reference = f"{at}, {ours}", f"{at}, {reference}"
        return means[ours] / means[reference] if ours in means and means.get(reference) else None

    goals: Sequence[tuple[str, str, str, float | None]] = [
        *((f"copy, T={t}", "critic", "truncated", goal) for t, goal in ((2, 2.0), (4, 2.0), (8, None))),
        ("repeat_copy, T=4", "critic", "truncated", 1.8),
        ("copy, T=4", "critic", "full", 0.75),
        *((f"{task}, T={t}", "critic, streaming", "truncated", 1.0) for task, t in CORE),
        *((f"{task}, T={t}", "plain", "truncated", 1.0) for task, t in CORE),
    ]
    return [
        bar(f"{at}: {ours} over {reference}", found, goal, None if goal is None else found >= goal)
        for at, ours, reference, goal in goals
        if (found := ratio(at, ours, reference)) is not None
    ]


if __name__ == "__main__":
    main()
