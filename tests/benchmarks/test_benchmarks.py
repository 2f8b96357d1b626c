"""Quick versions of the benchmarks run and write their results; the plain loop computes what the stages compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.methods import folder
from benchmarks.network.namespaces import why_not
from benchmarks.overhead.compiled import Copy, bits_table, compared
from benchmarks.overhead.plain_loop import plain_loop
from benchmarks.overhead.split_vs_plain import rates
from benchmarks.tables import step_cost, transport
from benchmarks.time.online import ARMS
from tests.support.runs import tiny
from workers.launch.launcher import launch

ROOT = Path(__file__).parents[2]


def quick(name: str, folder: Path) -> tuple[list[dict[str, Any]], str]:
    """Run a benchmark with QUICK=1 in `folder`; return its bars and its output."""
    environment = {**os.environ, "QUICK": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    bars = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith('{"bar"')]
    assert json.loads(ended.stdout.splitlines()[-1]) == bars[-1]
    assert all(bar.keys() == {"bar", "value", "goal", "holds"} for bar in bars)
    return bars, ended.stdout


@pytest.mark.timeout(120)
@pytest.mark.long
def test_machinery(tmp_path: Path) -> None:
    bars, _ = quick("overhead.split_vs_plain", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-machinery/machinery.json").read_text())
    assert results["bars"] == bars
    names = [row["label"] for row in results["rows"] if "plain loop" not in row["label"]]
    assert names == ["backprop, 1 stage", "backprop, 4 threads, local"]
    assert results["rows"][0]["ratio"] == 1.0
    goals = {bar["bar"]: bar["goal"] for bar in bars}
    for how in ("with one torch thread", "each at its best"):
        assert [goals[f"{name}: rate over the plain loop's, {how}"] for name in names] == [0.95, 0.85]
    assert [row["name"] for row in results["codec"]] == ["4 KB", "1 MB", "16 MB"]
    assert bars[-1]["holds"], "backprop in threads is not the plain loop"
    assert {"machine", "torch", "command"} <= results["environment"].keys()


@pytest.mark.timeout(120)
@pytest.mark.long
def test_transport(tmp_path: Path) -> None:
    bars, _ = quick("overhead.transport", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-transport/transport.json").read_text())
    assert results["bars"] == bars
    goals = [bar["goal"] for bar in bars if bar["bar"].endswith("share of raw TCP")]
    assert goals == [None, None, 0.35, 0.35, None, None, 0.5, 0.5]
    assert [row["name"] for row in results["rows"]] == [
        "raw TCP", "protobuf bytes over gRPC", "gRPC", "gRPC, shared memory",
    ]  # fmt: skip
    sizes = results["rows"][0]["sizes"]
    assert [(size["size"], size["share"], size["trip_share"]) for size in sizes] == [
        ("4 KB", 1, 1), ("64 KB", 1, 1), ("1 MB", 1, 1), ("16 MB", 1, 1),
    ]  # fmt: skip
    assert "(1.00)" in transport(results)


@pytest.mark.timeout(180)
@pytest.mark.long
def test_sweep(tmp_path: Path) -> None:
    bars, out = quick("overhead.sweep", tmp_path)
    names = [f"sweep of 2 runs in {way} over their training" for way in ("threads", "processes")]
    assert [(bar["bar"], bar["goal"]) for bar in bars] == [(name, 1.3) for name in names]
    assert all(bar["value"] > 1 for bar in bars)
    assert out.count("1 single runs: ") == 2


@pytest.mark.long
def test_step_cost(tmp_path: Path) -> None:
    bars, _ = quick("time.step_cost", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-step-cost/step_cost.json").read_text())
    assert results["bars"] == bars
    assert [bar["goal"] for bar in bars] == [None, None, None, 1.35, None, 1.15]
    assert [row["window"] for row in results["rows"]] == [4, 8, 32]
    assert "0.5 ms (1.50)" in step_cost({**results, "rows": [SYNTHETIC_ROW]})


@pytest.mark.timeout(600)
@pytest.mark.long
@pytest.mark.skipif(not folder("mnist").is_dir(), reason="no MNIST")
def test_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DNI_MNIST", str(folder("mnist").resolve()))
    bars, _ = quick("time.online", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-online/quick/online.json").read_text())
    assert results["bars"] == bars
    tasks = {name.partition(" | ")[0] for name in results["rows"]}
    assert tasks == {"copy one layer", "copy one layer each window", "MNIST 98 x 8", "sequential MNIST"}
    assert len([name for name in results["rows"] if name.startswith("MNIST 98 x 8 |")]) == len(ARMS)


@pytest.mark.timeout(300)
@pytest.mark.long
def test_compiled(tmp_path: Path) -> None:
    bars, _ = quick("overhead.compiled", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-compile/compiled.json").read_text())
    assert results["bars"] == bars
    assert [row["name"] for row in results["rows"]] == ["lstm", "transformer"]
    assert all(row["loss_difference"] < 1e-4 for row in results["rows"])  # only sums may have another order
    assert [row["name"] for row in results["bits"]] == ["backprop", "synthetic", "local", "delayed"]
    assert all(0.5 < row["bytes_ratio"] < 0.52 for row in results["bits"])
    assert [bar["goal"] for bar in bars] == [None] * 4 + [0.005, None] * 4


def test_turns_in_which_both_copies_warm_up_do_not_count() -> None:
    ordinary, compiled = Copy.__new__(Copy), Copy.__new__(Copy)
    ordinary.characters_per_s, compiled.characters_per_s = [1.0, 1.0, 10.0, 20.0, 40.0], [9.0, 9.0, 20.0, 10.0, 60.0]
    ordinary.losses, compiled.losses = [3.0, 2.0], [3.5, 1.75]
    found = compared(ordinary, compiled)
    assert (found["ordinary_per_s"], found["compiled_per_s"], found["ratio"]) == (20.0, 20.0, 1.5)  # of 2, 0.5 and 1.5
    assert found["loss_difference"] == 0.5


def test_a_table_of_16_bits_has_a_row_for_every_method() -> None:
    bits = {"fp32": [2.0, 4.0], "bf16": [2.01, 3.98]}
    row = {
        "name": "local",
        "bits": bits,
        "more": [0.005, -0.005],
        "control": [0.001, 0],
        "bytes": {"fp32": 3000.0, "bf16": 1500.0},
    }
    environment = {"machine": "m", "python": "3", "torch": "2", "command": "c"}
    results = {"bits": [{**row, "bytes_ratio": 0.5}], "bits_steps": 9, "seeds": [0, 1], "environment": environment}
    assert "| `depth=local` | 3.0000 | 2.9950 | +0.50 -0.50 | +0.10 +0.00 | 3.0 | 1.5 | 0.500 |" in bits_table(results)


SYNTHETIC_ROW = {"window": 4, "ms": {"truncated": 0.33, "plain regressor": 0.5}, "ratio": {"plain regressor": 1.5}}


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.long
def test_emulated_links(tmp_path: Path) -> None:
    bars, _ = quick("network.calibrate", tmp_path)
    results = json.loads((tmp_path / "outputs/bench-links/emulated_links.json").read_text())
    assert results["bars"] == bars
    assert [trip["delay_ms"] for trip in results["round_trips"]] == [0, 20]
    assert all(
        row["min"] >= 0 for row in [*results["round_trips"], *results["loads"]]
    )  # never before the delay has passed
    assert [row["came"] for row in results["loads"]] == [1.0, 1.0]


def test_the_plain_loop_is_the_arithmetic_of_the_stages(tmp_path: Path) -> None:
    config = tiny(steps=5, stages=3, depth={"method": "backprop"}, optimizer={"learning_rate": 1e-2, "clip": 0.05})
    found = launch(config, tmp_path).summary["train"]["loss"]
    losses = plain_loop(config, 1).losses
    # log_every is 5: the record is the mean of the last five, whose nats are summed before they are divided
    assert found == pytest.approx(sum(losses) / 5, rel=1e-12)


def test_ratios_are_those_of_one_repeat() -> None:
    repeats = [
        {("plain loop", 1): 100.0, ("plain loop", 2): 125.0, ("split", 1): 50.0},
        {("plain loop", 1): 10.0, ("plain loop", 2): 40.0, ("split", 1): 20.0},
        {("plain loop", 1): 40.0, ("plain loop", 2): 20.0, ("split", 1): 30.0},
    ]
    plain, more, split = rates(repeats)
    assert (plain["label"], plain["characters_per_s"], plain["ratio"]) == ("plain loop, 1 torch thread", 40.0, 1.0)
    assert (more["label"], more["characters_per_s"], more["ratio"]) == ("plain loop, 2 torch threads", 40.0, 1.0)
    assert (split["label"], split["characters_per_s"], split["ratio"]) == ("split", 30.0, 0.75)  # of 0.5, 2.0 and 0.75
    assert split["best"] == 0.5  # of 0.4, 0.5 and 0.75
