"""The overhead of splitting: stages against the same model in a plain loop, and the frame codec against protobuf.

The demonstration's character LSTM, with a batch so large that a plain step takes 20 ms or more, takes the same steps
in a plain single-process loop and as 1, 2 and 4 stages over each transport. Locked stages take turns, so each may use
all cores, as the plain loop may. Both therefore run with one torch thread and with as many as there are cores; the bars
are ratios of both with one torch thread, and of each at its best. Every run has a process of its own, which keeps freed
memory (`workers.system.malloc`) in the plain loop too. Evaluation, checkpoints and the building of the model are not
timed. QUICK=1 takes a few steps of some runs once, whose figures mean nothing, and writes to outputs/bench-machinery/
instead of benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import torch
from google.protobuf.wrappers_pb2 import BytesValue
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.harness.runs import composed
from benchmarks.overhead.plain_loop import Trained, plain_loop
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Kind
from workers.launch.launcher import launch
from workers.system.malloc import keep_memory

QUICK = os.environ.get("QUICK") == "1"
STEPS, REPEATS, BATCH = (10, 1, 8) if QUICK else (50, 3, 96)
OUT = Path("outputs/bench-machinery") if QUICK else RESULTS

COMMON = (
    "experiment=demo", "time=truncated", "seed=0", f"steps={STEPS}", f"data.batch={BATCH}", "evaluate.every=null",
    "evaluate.windows=1", "checkpoint.every=null",
)  # fmt: skip
ONE = ("stages=1", "model.split_points=[]")
TWO = ("stages=2", "model.split_points=[lstm3]")
THREADS, PROCESSES = ("transport=local", "launch=threads"), ("transport=grpc", "launch=processes")
PLAIN, LOCKED, LINKED = "plain loop", "backprop, 4 threads, local", "backprop, 4 processes, gRPC"
SINGLE = "backprop, 1 stage"
#: Locked runs, with one torch thread and with more.
TURNS = {
    SINGLE: (*ONE, "depth=backprop", *THREADS),
    LOCKED: ("depth=backprop", *THREADS),
    LINKED: ("depth=backprop", *PROCESSES),
}
#: Other runs, with one torch thread.
OTHERS = {
    "synthetic, 4 threads, local": ("depth=synthetic", *THREADS),
    "synthetic, 4 processes, gRPC": ("depth=synthetic", *PROCESSES),
    "backprop, 4 processes, gRPC over TCP": ("depth=backprop", *PROCESSES, "transport.bind=127.0.0.1:0"),
    "backprop, 2 threads, local": (*TWO, "depth=backprop", *THREADS),
    "backprop, 2 processes, gRPC": (*TWO, "depth=backprop", *PROCESSES),
}
#: The bars on the rate over the plain loop's.
GOALS = {SINGLE: 0.95, LOCKED: 0.85, LINKED: 0.8}
CORES = [1] if QUICK else sorted({1, os.cpu_count() or 1})
Variant = tuple[str, int]  #: name, torch threads
VARIANTS: dict[Variant, tuple[str, ...]] = (
    {(name, 1): TURNS[name] for name in (SINGLE, LOCKED)}
    if QUICK
    else {(name, n): overrides for n in CORES for name, overrides in (TURNS if n > 1 else TURNS | OTHERS).items()}
)
#: name, bytes of a float32 tensor, repetitions
TENSORS = (("4 KB", 4 * 2**10, 2000), ("1 MB", 2**20, 200), ("16 MB", 16 * 2**20, 40))

T = TypeVar("T")
console = Console(width=max(Console().width, 100))


def main() -> None:
    """Measure, print the tables, write the results, print the bars."""
    console.print(f"{STEPS} steps each, {REPEATS} repeats, interleaved", highlight=False)
    repeats = [repeat(n + 1) for n in range(REPEATS)]
    rows = rates([row for row, _ in repeats])
    codec = [codec_row(*tensor) for tensor in TENSORS]
    show(rows, codec)
    difference = max(difference for _, difference in repeats)
    results = {
        "steps": STEPS, "repeats": REPEATS, "batch": BATCH, "seed": 0, "environment": environment(), "rows": rows,
        "codec": codec, "loss_difference": difference, "bars": bars(rows, codec, difference),
    }  # fmt: skip
    write(OUT / "machinery.json", results)


def repeat(number: int) -> tuple[dict[Variant, float], float]:
    """Run everything once; return characters per second, and backprop's loss minus the plain loop's (nats)."""
    found: dict[Variant, float] = {}
    losses: list[float] = []
    for threads in CORES:
        console.rule(f"repeat {number} of {REPEATS}: {label(PLAIN, threads)}")
        plain = alone(plain_run, threads)
        found[PLAIN, threads] = plain.characters_per_s
        losses = losses or plain.losses
    difference = 0.0
    for (name, threads), overrides in VARIANTS.items():
        console.rule(f"repeat {number} of {REPEATS}: {label(name, threads)}")
        typed = (*COMMON, f"launch.torch_threads={threads}", *overrides)
        summary = alone(split_run, typed)
        found[name, threads] = summary["tokens_per_s"]
        if (name, threads) == (LOCKED, 1):
            difference = abs(summary["train"]["loss"] - statistics.fmean(losses[-composed(*typed).log_every :]))
    return found, difference


def alone(work: Callable[..., T], *args: Any) -> T:
    """Run `work` in a fresh process, because torch's earlier threads in this one would change how others wait."""
    with ProcessPoolExecutor(1, get_context("spawn")) as one:
        return one.submit(work, *args).result()


def plain_run(threads: int) -> Trained:
    """Run the plain loop, with freed memory kept as in stages."""
    keep_memory()
    return plain_loop(composed(*COMMON), threads)


def split_run(typed: tuple[str, ...]) -> dict[str, Any]:
    """Return the summary of one run in stages, and delete its files."""
    with tempfile.TemporaryDirectory() as folder:
        return launch(composed(*typed), Path(folder)).summary


def rates(repeats: list[dict[Variant, float]]) -> list[dict[str, Any]]:
    """Return medians over the repeats. `ratio` is the rate over the plain loop's with as many torch threads in the same
    repeat.

    `best` is that ratio with the best number of threads for each in that repeat.
    """
    rows = []
    for name, threads in repeats[0]:
        best = [max_of(each, name) / max_of(each, PLAIN) for each in repeats]
        rows.append({
            "name": name, "threads": threads, "label": label(name, threads),
            "characters_per_s": statistics.median(each[name, threads] for each in repeats),
            "ratio": statistics.median(each[name, threads] / each[PLAIN, threads] for each in repeats),
            "best": statistics.median(best),
            "all": [each[name, threads] for each in repeats],
        })  # fmt: skip
    return rows


def label(name: str, threads: int) -> str:
    """Return a run's name, with its torch threads if there are several."""
    if threads == 1:
        return f"{name}, 1 torch thread" if name == PLAIN else name
    return f"{name}, {threads} torch threads"


def max_of(rates: dict[Variant, float], name: str) -> float:
    """Return the rate of a run with its best number of torch threads."""
    return max(rate for (other, _), rate in rates.items() if other == name)


def codec_row(name: str, nbytes: int, count: int) -> dict[str, Any]:
    """Return median seconds to encode and decode one tensor with our codec and with protobuf, alternating."""
    torch.set_num_threads(1)
    tensor = torch.randn(nbytes // 4, generator=torch.Generator().manual_seed(0))
    for codec in (ours, protobuf):
        if not torch.equal(codec(tensor), tensor):
            raise AssertionError(f"{name}: {codec.__name__} does not return the tensor it got")
    pairs = [(seconds(ours, tensor), seconds(protobuf, tensor)) for _ in range(max(3, count // (20 if QUICK else 1)))]
    ours_s, protobuf_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": name, "ours_s": ours_s, "protobuf_s": protobuf_s, "ratio": ours_s / protobuf_s}


def seconds(codec: Callable[[Tensor], Tensor], tensor: Tensor) -> float:
    """Return the seconds of one round trip."""
    started = time.perf_counter()
    codec(tensor)
    return time.perf_counter() - started


def ours(tensor: Tensor) -> Tensor:
    """Encode and decode with the frame codec."""
    return decode(encode(Frame(Kind.STEP, 1, tensors={"value": tensor}))).tensors["value"]


def protobuf(tensor: Tensor) -> Tensor:
    """Encode and decode with a message with one bytes field."""
    data = BytesValue(value=tensor.numpy().tobytes()).SerializeToString()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the bytes are read-only, but their clone is not
        return torch.frombuffer(BytesValue.FromString(data).value, dtype=tensor.dtype).clone()


def lines(rows: list[dict[str, Any]], codec: list[dict[str, Any]]) -> list[tuple[list[str], list[list[str]]]]:
    """Return heads and rows of the page's tables: runs, frames."""
    runs = [[row.get("label", row["name"]), f"{row['characters_per_s']:,.0f}", f"{row['ratio']:.2f}"] for row in rows]
    frames = [
        [row["name"], f"{row['ours_s'] * 1e6:,.0f} µs", f"{row['protobuf_s'] * 1e6:,.0f} µs", f"{row['ratio']:.2f}"]
        for row in codec
    ]
    heads = ["frame, encode + decode", "here", "protobuf `bytes` field", "ratio"]
    return [(["way", "char/s", "over the plain loop"], runs), (heads, frames)]


def show(rows: list[dict[str, Any]], codec: list[dict[str, Any]]) -> None:
    """Print both tables."""
    table = Table("", "characters/s", "over plain", "at its best", title="Character LSTM (medians)")
    for row in rows:
        figures = f"{row['characters_per_s']:,.0f}", f"{row['ratio']:.2f}", f"{row['best']:.2f}"
        table.add_row(row["label"], *figures)
    console.print(table)
    table = Table(
        "float32 tensor", "ours (ms)", "protobuf (ms)", "ours / protobuf", title="Encode and decode (medians)"
    )
    for row in codec:
        milliseconds = (f"{row[key] * 1000:.3f}" for key in ("ours_s", "protobuf_s"))
        table.add_row(row["name"], *milliseconds, f"{row['ratio']:.2f}")
    console.print(table)


def bars(rows: list[dict[str, Any]], codec: list[dict[str, Any]], difference: float) -> list[dict[str, Any]]:
    """Return every figure as a line of JSON."""
    plain_ms = [BATCH * 32 / row["characters_per_s"] * 1e3 for row in rows if row["name"] == PLAIN]
    found = [bar("a step of the plain loop at its best (ms)", min(plain_ms), 20.0, min(plain_ms) >= 20.0)]
    for row in rows:
        if row["threads"] == 1 and row["name"] != PLAIN:
            found += [promised(row, "with one torch thread", "ratio"), promised(row, "each at its best", "best")]
    found += [bar(f"codec, {row['name']}: time over protobuf's", row["ratio"], None, None) for row in codec]
    found.append(bar(f"{LOCKED}: loss away from the plain loop's (nats)", difference, 0.0, difference == 0.0))
    return found


def promised(row: dict[str, Any], how: str, key: str) -> dict[str, Any]:
    """Return the bar on a run's rate over the plain loop's."""
    goal, ratio = GOALS.get(row["name"]), row[key]
    name = f"{row['name']}: rate over the plain loop's, {how}"
    return bar(name, ratio, goal, None if goal is None else ratio >= goal)


if __name__ == "__main__":
    main()
