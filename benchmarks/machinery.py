"""The cost of the machinery: four stages against the same model in a plain loop, and the frame codec against protobuf.

The demonstration's character LSTM takes the same steps in a plain single-process loop, as four threads with local
queues, and as four processes over gRPC; one torch thread each (the plain loop also with two). Evaluation, checkpoints
and the building of the model are not timed. QUICK=1 takes a few steps of some ways once (the figures then mean nothing)
and writes to outputs/bench-machinery/ instead of benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from google.protobuf.wrappers_pb2 import BytesValue
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.plain import plain_loop
from benchmarks.record import RESULTS, bar, environment, write
from benchmarks.runs import composed
from workers.config import Config
from workers.frame import Frame, Kind
from workers.launcher import launch
from workers.wire import decode, encode

QUICK = os.environ.get("QUICK") == "1"
STEPS, REPEATS = (10, 1) if QUICK else (150, 3)
OUT = Path("outputs/bench-machinery") if QUICK else RESULTS

COMMON = (
    "experiment=demo", "time=truncated", "seed=0", f"steps={STEPS}", "launch.torch_threads=1",
    "evaluate.every=null", "evaluate.windows=1", "checkpoint.every=null",
)  # fmt: skip
THREADS, PROCESSES = ("transport=local", "launch=threads"), ("transport=grpc", "launch=processes")
PLAIN, PLAIN_2 = "plain loop, 1 torch thread", "plain loop, 2 torch threads"
LOCKED = "backprop, 4 threads, local"
SPLIT = {
    LOCKED: ("depth=backprop", *THREADS),
    "synthetic, 4 threads, local": ("depth=synthetic", *THREADS),
    "backprop, 4 processes, gRPC": ("depth=backprop", *PROCESSES),
    "synthetic, 4 processes, gRPC": ("depth=synthetic", *PROCESSES),
}
WAYS = dict([*SPLIT.items()][: 3 if QUICK else None])
#: name, bytes of a float32 tensor, how often it is timed
TENSORS = (("4 KB", 4 * 2**10, 2000), ("1 MB", 2**20, 200), ("16 MB", 16 * 2**20, 40))

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
        "steps": STEPS, "repeats": REPEATS, "seed": 0, "environment": environment(), "rows": rows, "codec": codec,
        "loss_difference": difference, "bars": bars(rows, codec, difference),
    }  # fmt: skip
    write(OUT / "machinery.json", results)


def repeat(number: int) -> tuple[dict[str, float], float]:
    """Every way once: characters per second by name, and how far backprop's loss is from the plain loop's (nats)."""
    console.rule(f"repeat {number} of {REPEATS}: plain loop")
    plain, plain_2 = (plain_loop(composed(*COMMON), threads) for threads in (1, 2))
    found, difference = {PLAIN: plain.characters_per_s, PLAIN_2: plain_2.characters_per_s}, 0.0
    for name, overrides in WAYS.items():
        console.rule(f"repeat {number} of {REPEATS}: {name}")
        config = composed(*COMMON, *overrides)
        summary = split_run(config)
        found[name] = summary["tokens_per_s"]
        if name == LOCKED:
            difference = abs(summary["train"]["loss"] - statistics.fmean(plain.losses[-config.log_every :]))
    return found, difference


def split_run(config: Config) -> dict[str, Any]:
    """The summary of one run in stages; nothing else of it is kept."""
    with tempfile.TemporaryDirectory() as folder:
        return launch(config, Path(folder)).summary


def rates(repeats: list[dict[str, float]]) -> list[dict[str, Any]]:
    """Medians over the repeats; `ratio`: of the rates of one repeat, to the plain loop's."""
    return [
        {
            "name": name,
            "characters_per_s": statistics.median(each[name] for each in repeats),
            "ratio": statistics.median(each[name] / each[PLAIN] for each in repeats),
            "all": [each[name] for each in repeats],
        }
        for name in repeats[0]
    ]


def codec_row(name: str, nbytes: int, count: int) -> dict[str, Any]:
    """Median seconds to encode and decode one tensor, ours and protobuf's, in turn."""
    torch.set_num_threads(1)
    tensor = torch.randn(nbytes // 4, generator=torch.Generator().manual_seed(0))
    for way in (ours, protobuf):
        if not torch.equal(way(tensor), tensor):
            raise AssertionError(f"{name}: {way.__name__} does not return the tensor it was given")
    pairs = [(seconds(ours, tensor), seconds(protobuf, tensor)) for _ in range(max(3, count // (20 if QUICK else 1)))]
    ours_s, protobuf_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"name": name, "ours_s": ours_s, "protobuf_s": protobuf_s, "ratio": ours_s / protobuf_s}


def seconds(way: Callable[[Tensor], Tensor], tensor: Tensor) -> float:
    """How long one round trip takes."""
    started = time.perf_counter()
    way(tensor)
    return time.perf_counter() - started


def ours(tensor: Tensor) -> Tensor:
    """A round trip through the frame codec."""
    return decode(encode(Frame(Kind.STEP, 1, tensors={"value": tensor}))).tensors["value"]


def protobuf(tensor: Tensor) -> Tensor:
    """A round trip through a message with one field of type bytes."""
    data = BytesValue(value=tensor.numpy().tobytes()).SerializeToString()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the bytes cannot be written to, but their clone can
        return torch.frombuffer(BytesValue.FromString(data).value, dtype=tensor.dtype).clone()


def show(rows: list[dict[str, Any]], codec: list[dict[str, Any]]) -> None:
    """Both tables."""
    table = Table("", "characters/s", "over plain", title="4-stage character LSTM (medians)")
    for row in rows:
        table.add_row(row["name"], f"{row['characters_per_s']:,.0f}", f"{row['ratio']:.2f}")
    console.print(table)
    table = Table(
        "float32 tensor", "ours (ms)", "protobuf (ms)", "ours / protobuf", title="Encode and decode (medians)"
    )
    for row in codec:
        milliseconds = (f"{row[key] * 1000:.3f}" for key in ("ours_s", "protobuf_s"))
        table.add_row(row["name"], *milliseconds, f"{row['ratio']:.2f}")
    console.print(table)


def bars(rows: list[dict[str, Any]], codec: list[dict[str, Any]], difference: float) -> list[dict[str, Any]]:
    """Every figure as a line of JSON."""
    found = [bar(f"{row['name']}: rate over the plain loop's", row["ratio"], None, None) for row in rows[1:]]
    found += [bar(f"codec, {row['name']}: time over protobuf's", row["ratio"], None, None) for row in codec]
    found.append(bar(f"{LOCKED}: loss away from the plain loop's (nats)", difference, 0.0, difference == 0.0))
    return found


if __name__ == "__main__":
    main()
