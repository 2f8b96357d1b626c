"""What a checkpoint costs the training loop at the default interval: the copy of the state, and the write beside it.

    python -m benchmarks.overhead.checkpoints

Each task is trained for some steps in one stage, which gives seconds per step. Then its state is copied and written, as
a checkpoint barrier does. A share is of the time of `checkpoint.every` steps. What a barrier costs besides, because the
stages must have answered all frames, does not depend on the size of the state and is not in it.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness.runs import composed
from workers.build.data import resolve
from workers.config.schema import CheckpointConfig
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.storage import checkpoint
from workers.storage.stage_files import snapshot
from workers.tracking.early_stopping import Stop

EVERY = CheckpointConfig().every or 1
GOAL = 0.02
COMMON = (
    "experiment=demo", "time=truncated", "stages=1", "model.split_points=[]", "transport=local", "launch=threads",
    "launch.torch_threads=1", "evaluate.every=null", "evaluate.windows=1", "checkpoint.every=null",
)  # fmt: skip
TASKS = {
    "LSTM": (),
    "transformer": ("model=transformer", "model.units=256", "model.layers=4"),
    "transformer, one short window": (
        "model=transformer", "model.units=256", "model.layers=4", "data.batch=1", "data.window=16",
    ),
}  # fmt: skip


def measure(task: tuple[str, ...], steps: int, writes: int) -> dict[str, float]:
    """Return megabytes of a checkpoint, and seconds of a step, of a copy and of a write (medians)."""
    config, data = resolve(composed(*COMMON, *task, f"steps={steps}"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        worker = assemble(Job(config, Path(folder), lambda record: None, Stop(), data), 0, None, None)
        worker.run()
        step_s = worker.recorder.tally.train_s / steps
        copies, written = [], []
        for n in range(1, writes + 1):
            begun = time.perf_counter()
            copy = snapshot(worker.state_dict())
            copies.append(time.perf_counter() - begun)
            checkpoint.write(Path(folder), 0, 1, n, copy)
            written.append(time.perf_counter() - begun - copies[-1])
        files = checkpoint.folder_of(Path(folder), 1).iterdir()
        size = sum(file.stat().st_size for file in files)
    return {
        "mb": size / 1e6,
        "step_s": step_s,
        "copy_s": statistics.median(copies),
        "write_s": statistics.median(written),
    }


def main() -> None:
    """Measure every task; print a line each, then a bar on the largest share."""
    quick = bool(os.environ.get("QUICK"))
    shares = []
    for name, task in TASKS.items():
        found = measure(task, *((3, 1) if quick else (30, 7)))
        interval_s = EVERY * found["step_s"]
        shares.append(found["copy_s"] / interval_s)
        times = ", ".join(f"{key} {found[f'{key}_s'] * 1e3:.1f} ms" for key in ("step", "copy", "write"))
        whole = (found["copy_s"] + found["write_s"]) / interval_s
        print(
            f"{name}: {found['mb']:.1f} MB, {times}; copy {shares[-1]:.2%} of {EVERY} steps, with the write {whole:.2%}"
        )
    bar = {"bar": "largest share of the loop's time in checkpoints", "value": max(shares), "goal": GOAL}
    print(json.dumps({**bar, "holds": max(shares) <= GOAL}))


if __name__ == "__main__":
    main()
