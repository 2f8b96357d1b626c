"""What `dni-simulate` says of every measured cell, with one fitted overhead per engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.grid import Row
from workers.simulation.model import ASYNCHRONOUS, predict
from workers.simulation.scenario import Scenario

ACTIVATION_BYTES = 65536  # of a batch of 32
#: The cell at no delay that an engine's overhead is fitted to: gRPC links, and torch.distributed's pipelines.
FITTED = {"grpc": "backprop", "torch": "gpipe, M=4"}
Times = tuple[float, float, float]


def checked(rows: dict[str, Row], delays: Sequence[float], stages: int, batch: int, ms: Times) -> dict[str, Any]:
    """By row and delay: the forecast rate, over what was measured, what the fullest stage holds, and the overhead."""
    overheads = {engine: fit(rows[name]["delays"]["0"]["updates_per_s"], name, stages, batch, ms)
                 for engine, name in FITTED.items() if name in rows}  # fmt: skip
    found: dict[str, Any] = {}
    for name, row in rows.items():
        overhead = overheads[engine_of(name)]
        found[name] = {}
        for delay in delays:
            said = predict(method_of(name), scenario(name, delay, overhead, stages, batch, ms))
            measured = row["delays"][f"{delay:g}"]["updates_per_s"]
            found[name][f"{delay:g}"] = {
                "updates_per_s": said.updates_per_s, "over_measured": said.updates_per_s / measured,
                "held": max(said.held) * number(name, r"(\d+) batches", 1), "overhead_ms": overhead * 1000,
            }  # fmt: skip
    return found


def fit(rate: float, name: str, stages: int, batch: int, ms: Times, delay_ms: float = 0.0) -> float:
    """The seconds of overhead per frame with which the forecast at a delay is the rate that was measured there."""
    low, high = 0.0, 0.02
    for _ in range(30):
        middle = (low + high) / 2
        said = predict(method_of(name), scenario(name, delay_ms, middle, stages, batch, ms)).updates_per_s
        low, high = (middle, high) if said > rate else (low, middle)
    return (low + high) / 2


def scenario(name: str, delay_ms: float, overhead_s: float, stages: int, batch: int, ms: Times) -> Scenario:
    """A row of the benchmark as the model sees it."""
    batches = number(name, r"(\d+) batches", 1)
    forward, backward, cut = (time / 1000 for time in ms)
    return Scenario(
        (forward * batches,) * stages, (backward * batches,) * stages, (cut,) * (stages - 1) + (0.0,),
        overhead_s=overhead_s, delay_s=delay_ms / 1000, activation_bytes=ACTIVATION_BYTES * batches,
        gradient_bytes=ACTIVATION_BYTES * batches, window=number(name, r"W=(\d+)", 1), batch=batch * batches,
        microbatches=number(name, r"M=(\d+)", 1), steps=400,
    )  # fmt: skip


def engine_of(name: str) -> str:
    """What carries its frames."""
    return "grpc" if method_of(name) in ("backprop", *ASYNCHRONOUS) else "torch"


def method_of(name: str) -> str:
    """The method of a row."""
    return name.split(",")[0]


def number(name: str, pattern: str, default: int) -> int:
    """The number that a part of a row's name has."""
    found = re.search(pattern, name)
    return int(found[1]) if found else default
