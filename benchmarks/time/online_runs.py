"""Tasks, methods and runs of the comparison in time: exact traces of the past, predictions of the future.

Every model is a residual stack of LRU blocks, in one process. All methods of a task read the same symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.harness.grid import QUICK
from benchmarks.harness.methods import Overrides, folder

TUNING_SEED = 100
SEEDS = (0,) if QUICK else (0, 1, 2)
BATCH, UNITS = (8, 16) if QUICK else (50, 32)

_FROZEN = ("time=truncated", "model._target_=benchmarks.time.frozen.FrozenBelow")
ARMS: dict[str, Overrides] = {
    "truncated": ("time=truncated",),
    "immediate": ("time=truncated",),
    "frozen below": _FROZEN,
    "online": ("time=online",),
    "online, critic": ("time=online", "time.future=synthetic"),
    "critic": ("time=synthetic",),
    "full": ("time=full",),
    "checkpointed": ("time=checkpointed",),
}
MAIN = ("truncated", "online", "online, critic", "critic", "full")
ONE_LAYER = ("truncated", "online", "full")


@dataclass(frozen=True)
class Task:
    """Data, with sequences of `length` steps in windows of `window`.

    Args:
        overrides: settings, as words of a command.
        sequences: batches of sequences in a run.
        arms: methods.
        seeds: of the runs that count.
        layers: blocks of the model.
        each_window: an optimizer step after every window, not after every sequence.
        heads: labels that a critic models: the next ones that count.
        family: of its files; None: it is drawn.
        test: the split that is measured at the end.
        rates_of: the task whose learning rates it takes; None: its own.
    """

    overrides: Overrides
    length: int
    window: int
    sequences: int
    arms: tuple[str, ...] = MAIN
    seeds: tuple[int, ...] = SEEDS
    layers: int = 3
    each_window: bool = False
    heads: int = 1
    family: str | None = None
    test: str = "test"
    rates_of: str | None = None


_LATE = "benchmarks.time.late_labels."
_DELAYED = ("data=copy", f"data._target_={_LATE}DelayedLabel", "data.length=112", "data.sequence=null")
_DIGITS = ("data=seqmnist", f"data._target_={_LATE}Digits", "data.sequence=null")
_COPY = ("data=copy", "data.length=21")
_RATES_OF = "MNIST, 98 x 8"
TASKS = {
    "copy, one layer": Task(_COPY, 24, 4, 3000, ONE_LAYER, layers=1, heads=8, test="valid"),
    "copy, one layer, each window": Task(
        _COPY, 24, 4, 3000, ("truncated", "online"), layers=1, each_window=True, heads=8, test="valid",
    ),
    "delayed label": Task(_DELAYED, 112, 14, 1000, (*MAIN, "frozen below")),
    "MNIST, 98 x 8": Task((*_DIGITS, "data.pixels=8"), 98, 14, 1000, tuple(ARMS), family="mnist"),
    "sequential MNIST": Task((*_DIGITS, "data.pixels=1"), 784, 28, 600, family="mnist", rates_of=_RATES_OF),
    "permuted MNIST": Task(
        (*_DIGITS, "data.pixels=1", "data.permuted=true"), 784, 28, 600,
        seeds=SEEDS[:1], family="mnist", rates_of=_RATES_OF,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run; `tuning`: a short one, on the seed that chooses the rate."""

    task: str
    arm: str
    rate: str
    seed: int
    tuning: bool = False

    @property
    def name(self) -> str:
        """The run's name in the results."""
        short = f"{self.task.replace(', ', ' ')} | {self.arm.replace(', ', ' + ')}"
        return f"{short}, rate {self.rate}" if self.tuning else f"{short}, seed {self.seed}"

    @property
    def window(self) -> int:
        """Time steps of a window."""
        task = TASKS[self.task]
        return {"immediate": 1, "full": task.length}.get(self.arm, task.window)

    @property
    def windows(self) -> int:
        """Windows of a sequence; of checkpointed backpropagation, a window is a sequence."""
        return 1 if self.arm == "checkpointed" else TASKS[self.task].length // self.window

    @property
    def accumulate(self) -> int:
        """Windows between optimizer steps."""
        return 1 if TASKS[self.task].each_window else self.windows

    @property
    def steps(self) -> int:
        """Windows of the run."""
        sequences = TASKS[self.task].sequences // (4 if self.tuning else 1)
        return max(2, (2 if QUICK else sequences) * self.windows)

    @property
    def overrides(self) -> Overrides:
        """The run's settings as typed."""
        task = TASKS[self.task]
        path = () if task.family is None else (f"data.path={folder(task.family)}",)
        return (
            *task.overrides, *path, "model=residual", f"model.units={UNITS}", f"model.layers={task.layers}",
            "model.smallest=0.9", *ARMS[self.arm], *self._critic(), f"data.window={self.window}", f"data.batch={BATCH}",
            "depth=backprop", "optimizer=adamw", f"optimizer.learning_rate={self.rate}",
            f"optimizer.accumulate={self.accumulate}", "optimizer/schedule=cosine", "stages=1",
            "transport=local", "launch=threads", "launch.torch_threads=1", f"steps={self.steps}", f"seed={self.seed}",
            "log_every=50", f"evaluate.every={'null' if self.tuning or QUICK else max(1, self.steps // 4)}",
            f"evaluate.windows={self.windows * (1 if QUICK else 20)}", "checkpoint.every=null",
        )  # fmt: skip

    def _critic(self) -> Overrides:
        task = TASKS[self.task]
        if "critic" not in self.arm:
            return ()
        reach = (f"predictor.time.future_labels={task.length}", f"predictor.time.counted_labels={task.heads}")
        return ("predictor/time=critic", *reach)
