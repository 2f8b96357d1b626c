"""Train with one method and print its memory: `python -m benchmarks.time.memory_probe METHOD STEPS`.

The model is one LSTM layer. Sequences are drawn window by window, so only the method keeps a sequence. The process must
be fresh, because the peak memory of a process never decreases.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.models import Lstm, ModelContext
from dni.predictors.regressor import Regressor
from dni.stages.base import Stage
from workers.runtime.tally import peak_rss_mb

SYMBOLS, UNITS, BATCH, WINDOW = 10, 64, 8, 10
WHOLE = ("checkpointed", "full")
METHODS = ("truncated", "synthetic", *WHOLE)


def main() -> None:
    """Train, then print a line of JSON: seconds, and megabytes beyond those before the first step."""
    method, steps = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    stage, cut = trainer(method)
    window = steps if method in WHOLE else WINDOW
    before, started = now_mb(), time.perf_counter()
    train(stage, cut, steps // window, window)
    print(json.dumps({"extra_mb": peak_mb() - before, "before_mb": before, "seconds": time.perf_counter() - started}))


def trainer(method: str) -> tuple[Stage, Interface]:
    """Return the stage and its cut in time."""
    torch.manual_seed(0)
    chain = Lstm(units=UNITS, layers=1).build(ModelContext(SYMBOLS))
    optimizer = torch.optim.Adam(chain.parameters(), 1e-3, fused=True)
    stage = Stage(chain, optimizer, clip=1.0, first=True, chunk=WINDOW if method == "checkpointed" else None)
    return stage, DecoupledInterface(Regressor(2 * UNITS, hidden=256)) if method == "synthetic" else ZeroInterface()


def train(stage: Stage, cut: Interface, windows: int, window: int) -> None:
    """Train on one sequence of `windows` windows."""
    loss = LossInterface()
    for step in range(windows):
        inputs, labels = drawn(step, window)
        take_step(stage, cut, loss, step, inputs, labels)


def take_step(
    stage: Stage,
    cut: Interface,
    loss: Interface,
    step: int,
    inputs: Tensor,
    labels: Tensor,
    future: Tensor | None = None,
) -> None:
    """Take one training step of a whole recurrent model in one process."""
    output, state = stage.forward(inputs)
    assert state is not None
    gradients = stage.backward(loss.gradient(step, output, labels), cut.gradient(step, state, future))
    assert gradients.state is not None
    cut.target(step - 1, gradients.state)
    stage.update(labels.numel())


def drawn(step: int, window: int) -> tuple[Tensor, Tensor]:
    """Return inputs and labels, (B, T) each, of a window of random symbols."""
    ids = torch.from_numpy(np.random.default_rng((0, step)).integers(0, SYMBOLS, (BATCH, window + 1)))
    return ids[:, :-1], ids[:, 1:]


def now_mb() -> float:
    """Return the resident memory; the peak so far if the system does not report it."""
    return _status("VmRSS") or peak_rss_mb()


def peak_mb() -> float:
    """Return the peak resident memory. On Linux, VmHWM excludes the parent's memory before exec."""
    return _status("VmHWM") or peak_rss_mb()


def _status(name: str) -> float | None:
    file = Path("/proc/self/status")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith(f"{name}:")), None)


if __name__ == "__main__":
    main()
