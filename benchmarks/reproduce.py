"""Run every benchmark from nothing, rebuild all tables and pictures, and tell which figures moved: `make reproduce`.

The benchmarks run in a copy of the committed tree, outputs/reproduce/tree, whose records are empty at first. Finished
benchmarks are skipped and interrupted ones continue, so the same command goes on after an interruption. Then every
figure is compared with the one on record: it has moved if the means differ by more than twice both spreads over seeds
together, or, of a single run, by more than 5 %. Times and rates depend on the machine and are not compared.

DNI_PTB, DNI_MNIST and DNI_CIFAR10 name the folders of the data. QUICK=1 takes a few steps of each and compares nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import write
from benchmarks.harness.grid import QUICK, Row, by_seed
from benchmarks.harness.methods import FOLDERS, folder

ROOT = Path(__file__).parents[1]
OUT = Path("outputs/reproduce") / ("quick" if QUICK else "full")
#: All benchmarks, those first whose records others read.
BENCHMARKS = (
    "benchmarks.demo",
    "benchmarks.network.calibrate",
    "benchmarks.overhead.split_vs_plain",
    "benchmarks.overhead.transport",
    "benchmarks.overhead.compiled",
    "benchmarks.time.step_cost",
    "benchmarks.time.memory",
    "benchmarks.time.copy_task",
    "benchmarks.time.both_cuts",
    "benchmarks.time.ptb",
    "benchmarks.time.online",
    "benchmarks.time.window_curve",
    "benchmarks.depth.methods",
    "benchmarks.depth.char_gpt",
    "benchmarks.depth.staleness",
    "benchmarks.depth.late",
    "benchmarks.depth.late_ablations",
    "benchmarks.delay.throughput",
    "benchmarks.delay.time_to_loss",
    "benchmarks.delay.gpt_race",
    "benchmarks.delay.copy_by_clock",
    "benchmarks.chaos",
)
#: Figures of a row that are compared.
FIGURES = ("test", "bits", "score", "solved")
#: Records that a benchmark reads while it writes them.
KEPT = ("demo.json",)
HEADS = ["record", "run", "figure", "on record", "now"]


def main() -> int:
    """Run what is not finished, write the tables, print what moved; return 1 if a benchmark failed."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    tree = copied()
    failures = [module for module in BENCHMARKS if not finished(module, tree)]
    subprocess.run([sys.executable, "-m", "benchmarks.tables"], cwd=tree, env=environment(tree), check=not QUICK)
    print(f"tables and pictures: {tree}/README.md, {tree}/docs/results")
    table = Table(*HEADS)
    for line in [] if QUICK else differences(ROOT / "benchmarks" / "results", tree / "benchmarks" / "results"):
        table.add_row(*line)
    Console(width=140).print(table if table.row_count else "no figure has moved")
    if failures:
        print(f"failed: {', '.join(failures)}; the same command tries them again")
    return bool(failures)


def copied() -> Path:
    """Return the copy of the committed tree, without records; make it if it is not there."""
    tree = (OUT / "tree").resolve()
    if not tree.is_dir():
        part = tree.with_name("part")
        shutil.rmtree(part, ignore_errors=True)
        files = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in files.splitlines():
            if name.startswith("benchmarks/results/") and Path(name).name not in KEPT:
                continue
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, part / name)
        (part / "benchmarks" / "results").mkdir(exist_ok=True)
        part.rename(tree)
    return tree


def finished(module: str, tree: Path) -> bool:
    """Run a benchmark unless it has finished; return whether it has."""
    record = OUT / "seconds.json"
    taken: dict[str, float] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if module in taken:
        print(f"{module}: finished in {taken[module]:,.0f} s")
        return True
    start = time.monotonic()
    code = subprocess.run([sys.executable, "-m", module], cwd=tree, env=environment(tree), check=False).returncode
    seconds = time.monotonic() - start
    print(f"{module}: {'finished' if not code else f'exit code {code}'} after {seconds:,.0f} s")
    if code in (130, -2):
        sys.exit(130)
    if not code:
        write(record, {**taken, module: seconds})
    return not code


def environment(tree: Path) -> dict[str, str]:
    """Return the environment of a benchmark: modules of the copy, data of this tree."""
    data = {variable: str(folder(family).resolve()) for family, (variable, _) in FOLDERS.items()}
    return {**os.environ, **data, "PYTHONPATH": str(tree), "RECORD": "1"}


def differences(before: Path, after: Path) -> list[list[str]]:
    """Return a line for every figure that moved, and for every record that is missing."""
    found = []
    for path in sorted(before.glob("*.json")):
        new = after / path.name
        if not new.is_file():
            found.append([path.stem, "", "", "", "missing"])
            continue
        old_runs, new_runs = (runs(json.loads(file.read_text(encoding="utf-8"))) for file in (path, new))
        for name in old_runs.keys() & new_runs.keys():
            for figure in FIGURES:
                pair = [[float(row[figure]) for row in of[name] if figure in row] for of in (old_runs, new_runs)]
                if all(pair) and moved(*pair):
                    found.append([path.stem, name, figure, *(f"{statistics.mean(each):.4g}" for each in pair)])
    return found


def runs(record: dict[str, Any]) -> dict[str, list[Row]]:
    """Return the rows of a record's runs, grouped by all but their seed; {} for a record without runs."""
    rows = record.get("rows")
    return by_seed({name: row for name, row in rows.items() if ", seed " in name}) if isinstance(rows, dict) else {}


def moved(before: list[float], after: list[float]) -> bool:
    """Return whether means differ by more than twice both standard deviations together; of one run: by 5 %."""
    gap = abs(statistics.mean(before) - statistics.mean(after))
    if min(len(before), len(after)) < 2:
        return gap > 0.05 * abs(statistics.mean(before))
    return gap > 2 * (statistics.stdev(before) + statistics.stdev(after))


if __name__ == "__main__":
    sys.exit(main())
