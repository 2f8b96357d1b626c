"""Predictions of `dni-simulate` for every measured cell, with one fitted overhead per engine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.grid import Row
from workers.simulation.model import ASYNCHRONOUS, predict
from workers.simulation.scenario import Scenario

ACTIVATION_BYTES = 65536  # of a batch of 32
#: The cell at no delay that fits an engine's overhead: gRPC links, and torch.distributed's pipelines.
FITTED = {"grpc": "backprop", "torch": "gpipe, M=4"}
Times = tuple[float, float, float]


def checked(rows: dict[str, Row], delays: Sequence[float], stages: int, batch: int, ms: Times) -> dict[str, Any]:
    """Return by row and delay: predicted rate, its ratio to the measured one, most kept batches, and the overhead."""
    overheads = {engine: fit(rows[name]["delays"]["0"]["updates_per_s"], name, stages, batch, ms)
                 for engine, name in FITTED.items() if name in rows}  # fmt: skip
    found: dict[str, Any] = {}
    for name, row in rows.items():
        overhead = overheads[engine_of(name)]
        found[name] = {}
        for delay in delays:
            predicted = predict(method_of(name), scenario(name, delay, overhead, stages, batch, ms))
            measured = row["delays"][f"{delay:g}"]["updates_per_s"]
            found[name][f"{delay:g}"] = {
                "updates_per_s": predicted.updates_per_s, "over_measured": predicted.updates_per_s / measured,
                "held": max(predicted.held) * number(name, r"(\d+) batches", 1), "overhead_ms": overhead * 1000,
            }  # fmt: skip
    return found


def fit(rate: float, name: str, stages: int, batch: int, ms: Times, delay_ms: float = 0.0) -> float:
    """Return the seconds of overhead per frame with which the predicted rate equals the measured one."""
    low, high = 0.0, 0.02
    for _ in range(30):
        middle = (low + high) / 2
        predicted = predict(method_of(name), scenario(name, delay_ms, middle, stages, batch, ms)).updates_per_s
        low, high = (middle, high) if predicted > rate else (low, middle)
    return (low + high) / 2


def scenario(name: str, delay_ms: float, overhead_s: float, stages: int, batch: int, ms: Times) -> Scenario:
    """Return the scenario of a row of the benchmark."""
    batches = number(name, r"(\d+) batches", 1)
    forward, backward, cut = (time / 1000 for time in ms)
    return Scenario(
        (forward * batches,) * stages, (backward * batches,) * stages, (cut,) * (stages - 1) + (0.0,),
        overhead_s=overhead_s, delay_s=delay_ms / 1000, activation_bytes=ACTIVATION_BYTES * batches,
        gradient_bytes=ACTIVATION_BYTES * batches, window=number(name, r"W=(\d+)", 1), batch=batch * batches,
        microbatches=number(name, r"M=(\d+)", 1), steps=400,
    )  # fmt: skip


def engine_of(name: str) -> str:
    """Return the engine that carries a row's frames."""
    return "grpc" if method_of(name) in ("backprop", *ASYNCHRONOUS) else "torch"


def method_of(name: str) -> str:
    """Return the method of a row."""
    return name.split(",")[0]


def number(name: str, pattern: str, default: int) -> int:
    """Return the number that matches `pattern` in a row's name."""
    found = re.search(pattern, name)
    return int(found[1]) if found else default
