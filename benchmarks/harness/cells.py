"""Cells: runs of the methods in depth that a comparison is made of, and trials of their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.harness import methods
from benchmarks.harness.grid import QUICK, Grid
from benchmarks.harness.methods import Overrides, Task

TUNING_SEED = 100
ALONE = ("time=truncated", "transport=local", "launch=threads", "launch.torch_threads=1", "checkpoint.every=null")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods that are compared, and how their settings are chosen.

    Args:
        tasks: by name.
        method: returns the settings of a method for a family of tasks.
        settings: returns the four settings to try of a method for a family of tasks; the first one is the rate.
        late: methods whose gradients, or targets, can be late.
        tuning: the trials.
    """

    tasks: Mapping[str, Task]
    method: Callable[[str, str], Overrides]
    settings: Callable[[str, str], list[Overrides]]
    late: tuple[str, ...]
    tuning: Grid

    def lag_of(self, name: str, lag: int) -> int | None:
        """Return the lag of a method; None if its gradients cannot be late."""
        return lag if name in self.late else None


DEPTH = Comparison(
    methods.TASKS,
    methods.method,
    methods.settings,
    ("DNI", "cDNI", "critic", "delayed"),
    Grid("depth-tuning", "depth_tuning", {"seed": TUNING_SEED}),
)


@dataclass(frozen=True)
class Cell:
    """One run.

    Args:
        label: "task, method" in the results, and what else distinguishes the run.
        task, method: their names.
        recipe: the settings that were chosen for the method.
        seed, lag: of the run; `lag` None: no late gradients, or a free run.
        more: further settings, which win over the others.
    """

    label: str
    task: str
    method: str
    recipe: Overrides
    seed: int
    lag: int | None = None
    steps: int | None = None
    more: Overrides = ()
    of: Comparison = DEPTH

    @property
    def name(self) -> str:
        """The name in the results."""
        return f"{self.label}, seed {self.seed}"

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return 12 if QUICK else self.steps or self.of.tasks[self.task].steps

    @property
    def overrides(self) -> Overrides:
        """The settings, as words of a command."""
        task = self.of.tasks[self.task]
        return (
            *task.overrides, *self.of.method(self.method, task.family), *self.recipe, *ALONE, *late(task, self.lag),
            f"steps={self.total_steps}", f"seed={self.seed}", "log_every=50",
            f"evaluate.every={max(1, self.total_steps // 8)}", f"evaluate.windows={4 if QUICK else 50}",
            *short_warmup(task), *self.more,
        )  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A short run with one of the settings that are tried."""

    task: str
    method: str
    setting: Overrides
    lag: int | None = None
    of: Comparison = DEPTH

    @property
    def rate(self) -> float:
        """The learning rate of the stages."""
        return float(self.setting[0].partition("=")[2])

    @property
    def name(self) -> str:
        """The name in the results."""
        at = "" if self.lag is None else f", lag {self.lag}"
        short = " ".join(self.setting).replace("predictor.depth.", "predictor.").replace("optimizer.", "")
        return f"{self.task}, {self.method}{at}, {short}"

    @property
    def overrides(self) -> Overrides:
        """The settings, as words of a command."""
        task = self.of.tasks[self.task]
        steps = 8 if QUICK else task.tuning_steps
        return (
            *task.overrides, *self.of.method(self.method, task.family), *self.setting, *ALONE, *late(task, self.lag),
            f"steps={steps}", f"seed={TUNING_SEED}", "log_every=50", "evaluate.every=null",
            f"evaluate.windows={4 if QUICK else 100}", *short_warmup(task),
        )  # fmt: skip


def short_warmup(task: Task, *, short: bool = QUICK) -> Overrides:
    """Return a warm-up that fits into a few steps, as those of QUICK=1; nothing otherwise, or for tasks without one."""
    setting = "optimizer.schedule.warmup_steps="
    return (f"{setting}2",) if short and any(part.startswith(setting) for part in task.overrides) else ()


def late(task: Task, lag: int | None) -> Overrides:
    """Return the settings for targets, or gradients per edge, that are `lag` steps late on all edges."""
    if lag is None:
        return ()
    edges = next(int(part.partition("=")[2]) for part in task.overrides if part.startswith("stages=")) - 1
    return (f"depth.lag={lag}", f"depth.max_in_flight={max(4, lag * edges, edges, lag + 1)}")
