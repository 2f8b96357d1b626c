"""What `compile=true` and `precision=bf16` do: rates of compiled over ordinary stages, and losses in 16 over 32 bits.

Two copies of the demonstration's model, with LSTM and with transformer layers, train locked in one thread on the same
windows, one copy with compiled stages. They take turns of a few steps; ratios are those within one turn, and the figure
is their median. `benchmarks.overhead.sixteen_bits` has the runs in 16 bits. QUICK=1 takes few steps, whose figures mean
nothing, and writes to outputs/bench-compile/ instead of benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.harness.markdown import markdown, source
from benchmarks.harness.runs import composed
from benchmarks.overhead.sixteen_bits import LIMIT, sixteen_bits
from dni.data.window import Window
from dni.interfaces.loss import LossInterface
from dni.named_tensors import Value
from dni.stages.base import Stage
from workers.build.data import resolve
from workers.build.stage import build_stage
from workers.config.settings import Config

QUICK = os.environ.get("QUICK") == "1"
OUT = Path("outputs/bench-compile") if QUICK else RESULTS
STEPS, TURN, STAGES = (6, 2, 4) if QUICK else (50, 5, 4)
BITS_STEPS, SEEDS = (10, (0,)) if QUICK else (600, (0, 1, 2))
MODELS = {"lstm": (), "transformer": ("model=transformer", "model.split_points=[]")}
if QUICK:
    MODELS = {name: (*typed, "model.units=16", "model.layers=1", "stages=2") for name, typed in MODELS.items()}
    MODELS = {name: (*typed, "model.split_points=[softmax]") for name, typed in MODELS.items()}

console = Console(width=max(Console().width, 100))


class Copy:
    """One copy of the model, in stages that train locked in this thread."""

    def __init__(self, config: Config) -> None:
        self.stages: list[Stage] = [build_stage(config, index) for index in range(config.stages)]
        self.loss, self.losses = LossInterface(config.loss), list[float]()
        self.characters_per_s: list[float] = []  #: of every turn

    def turn(self, windows: Sequence[Window]) -> float:
        """Take a step on each window; return the seconds."""
        started = time.perf_counter()
        for window in windows:
            self.step(window)
        seconds = time.perf_counter() - started
        self.characters_per_s.append(sum(window.labels.numel() for window in windows) / seconds)
        return seconds

    def step(self, window: Window) -> None:
        """Take one step of backpropagation."""
        step, x = len(self.losses) + 1, window.inputs
        for stage in self.stages:
            x, _ = stage.forward(x, window.reset, step)
        gradient: Value = self.loss.gradient(step, x, window.labels)
        for stage in reversed(self.stages):
            gradient = stage.backward(gradient, step=step).activation
            stage.update(window.labels.numel())
        self.losses.append(self.loss.loss)


def main() -> None:
    """Measure, print the bars, write the results."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's compiler warns of torch's own deprecations
    rows = [row(name) for name in MODELS]
    bits = sixteen_bits(BITS_STEPS, SEEDS)
    results = {
        "steps": STEPS, "turn": TURN, "stages": STAGES, "bits_steps": BITS_STEPS, "seeds": [*SEEDS],
        "environment": environment(), "rows": rows, "bits": bits, "bars": bars(rows, bits),
    }  # fmt: skip
    write(OUT / "compiled.json", results)


def row(name: str) -> dict[str, Any]:
    """Return the median rates of both copies and of their ratio, and how far their losses are apart."""
    typed = ("experiment=demo", "time=truncated", "depth=backprop", "seed=0", *MODELS[name])
    config, data = resolve(composed(*typed))
    ordinary, compiled = Copy(config), Copy(resolve(composed(*typed, "compile=true"))[0])
    windows = [data.train.next() for _ in range(STEPS)]
    first = [copy.turn(windows[:1]) for copy in (ordinary, compiled)]
    for start in range(1, STEPS, TURN):
        console.print(f"{name}: step {start} of {STEPS}", highlight=False)
        for copy in (ordinary, compiled):
            copy.turn(windows[start : start + TURN])
    return {"name": name, "first_s": first, **compared(ordinary, compiled)}


def compared(ordinary: Copy, compiled: Copy) -> dict[str, Any]:
    """Return rates after the first turns, in which both warm up, and the largest difference of losses in nats."""
    rates = [copy.characters_per_s[2:] for copy in (ordinary, compiled)]
    apart = [abs(a - b) for a, b in zip(ordinary.losses, compiled.losses, strict=True)]
    return {
        "ordinary_per_s": statistics.median(rates[0]),
        "compiled_per_s": statistics.median(rates[1]),
        "ratio": statistics.median(b / a for a, b in zip(*rates, strict=True)),
        "loss_difference": max(apart),
    }


def bars(rows: list[dict[str, Any]], bits: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every figure as a line of JSON."""
    found = []
    for each in rows:
        found.append(bar(f"{each['name']}: compiled stages' rate over ordinary ones'", each["ratio"], None, None))
        apart = each["loss_difference"]
        found.append(bar(f"{each['name']}: largest difference of losses (nats)", apart, None, None))
    for each in bits:
        worst = max(map(abs, each["more"]))
        found.append(bar(f"{each['name']}: bits in bf16 away from fp32's, share", worst, LIMIT, worst <= LIMIT))
        found.append(bar(f"{each['name']}: bytes sent in bf16 over fp32", each["bytes_ratio"], None, None))
    return found


def compiled_table(results: dict[str, Any]) -> str:
    """Return the table of compiled stages."""
    heads = ["layers", "char/s", "compiled, char/s", "ratio", "first step, s", "compiled, s", "losses apart, nats"]
    rows = [
        [
            each["name"], f"{each['ordinary_per_s']:,.0f}", f"{each['compiled_per_s']:,.0f}", f"{each['ratio']:.2f}",
            f"{each['first_s'][0]:.2f}", f"{each['first_s'][1]:.1f}", f"{each['loss_difference']:.0e}",
        ]
        for each in results["rows"]
    ]  # fmt: skip
    note = (
        f"The demonstration's sizes, {results['stages']} stages, locked, in one thread, seed 0; medians of turns of "
        f"{results['turn']} steps, {results['steps']} steps in all; losses apart: the most of any step. "
        f"{source(results)}"
    )
    return f"{markdown(heads, rows)}\n\n{note}"


def bits_table(results: dict[str, Any]) -> str:
    """Return the table of runs in 16 bits."""
    heads = ["method", "bits, fp32", "bits, bf16", "more, % by seed", "rounding alone, %", "kB a step, fp32"]
    heads += ["kB, bf16", "ratio"]
    rows = [
        [
            f"`depth={each['name']}`", *(f"{statistics.fmean(each['bits'][kind]):.4f}" for kind in ("fp32", "bf16")),
            *(" ".join(f"{share:+.2%}"[:-1] for share in each[kind]) for kind in ("more", "control")),
            *(f"{each['bytes'][kind] / 1000:,.1f}" for kind in ("fp32", "bf16")), f"{each['bytes_ratio']:.3f}",
        ]
        for each in results["bits"]
    ]  # fmt: skip
    seeds = ", ".join(map(str, results["seeds"]))
    note = (
        f"The demonstration's task, `time=truncated`, {results['bits_steps']} steps, means over the seeds {seeds}; "
        "late gradients exactly 1 step late. Rounding alone: fp32 again, at a learning rate a millionth larger. "
        "Bytes are those of encoded frames, in both directions of all edges, "
        f"headers and labels included. {source(results)}"
    )
    return f"{markdown(heads, rows)}\n\n{note}"


if __name__ == "__main__":
    main()
