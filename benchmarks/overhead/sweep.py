"""What a sweep costs over its training: the time of a whole sweep of tiny runs, as a multiple of the runs' own time.

    python -m benchmarks.overhead.sweep

A run's own time is that of its summary (`wall_s`): from the first frame to the last one. All else is overhead: the
start of Python and torch, the checks, the start of the stages, and the end. Beside the sweep, the same runs are started
by commands of their own, which is what they cost without a sweep; turns alternate.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.environment import bar
from benchmarks.harness.grid import QUICK

GOAL = 1.3
STEPS = 60
COMMON = ("experiment=smoke", "launch.torch_threads=1", f"steps={STEPS}")
WAYS = {"threads": ("launch=threads", "transport=local"), "processes": ("launch=processes",)}


@dataclass(frozen=True)
class Cost:
    """Seconds of one or more commands, and those of them in which their runs have trained."""

    all_s: float
    training_s: float

    @property
    def ratio(self) -> float:
        """The whole time as a multiple of the training."""
        return self.all_s / self.training_s


def timed(folder: Path, runs: int, *words: str) -> Cost:
    """Run a command of `dni-train` that leaves `runs` runs in `folder`. Raises CalledProcessError if it fails."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "workers", *words], capture_output=True, text=True, check=False)
    all_s = time.monotonic() - begun
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("summary.json"))]
    assert len(found) == runs, f"{len(found)} runs have ended, not {runs}"
    return Cost(all_s, sum(summary["wall_s"] for summary in found))


def measure(way: tuple[str, ...], runs: int, commands: int) -> tuple[Cost, Cost]:
    """Return the cost of one sweep of `runs` runs, and that of `commands` runs that have commands of their own.

    Half of the commands come before the sweep, and half after it.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def alone(number: int) -> Cost:
            own = folder / f"alone-{number}"
            return timed(own, 1, *COMMON, *way, f"seed={number}", f"hydra.run.dir={own}")

        before = [alone(number) for number in range(commands // 2)]
        own = folder / "sweep"
        swept = timed(own, runs, "-m", *COMMON, *way, f"seed=range({runs})", f"hydra.sweep.dir={own}")
        each = before + [alone(number) for number in range(commands // 2, commands)]
    return swept, Cost(sum(cost.all_s for cost in each), sum(cost.training_s for cost in each))


def main() -> None:
    """Measure stages in threads and in processes; print their lines and a bar."""
    runs, commands = (2, 1) if QUICK else (20, 4)
    for name, way in WAYS.items():
        swept, alone = measure(way, runs, commands)
        for what, cost in ((f"a sweep of {runs} runs", swept), (f"{commands} single runs", alone)):
            print(f"{name}, {what}: {cost.all_s:.1f} s, training {cost.training_s:.1f} s of it: {cost.ratio:.2f} times")
        bar(f"sweep of {runs} runs in {name} over their training", swept.ratio, GOAL, swept.ratio <= GOAL)


if __name__ == "__main__":
    main()
