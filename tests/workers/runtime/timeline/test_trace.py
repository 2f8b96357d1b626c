"""`profile=true` shows what every stage did, and when, without a change to the run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import assert_same, parameters_of, tiny
from tests.support.workers.traces import assert_in_order, pairs, read_trace, seconds, slices_of
from workers.launch.launcher import launch

WHOLE: dict[str, Any] = {"profile": True, "profile_after": 0, "profile_steps": 1000}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "checkpoint": {"every": None}}
SLOW: dict[str, Any] = {"emulate": {"forward_ms": 4, "backward_ms": 8}, "evaluate": {"every": None}}


def test_a_locked_run_waits_for_the_passes_of_the_other_stage(tmp_path: Path) -> None:
    """Two stages of 4 + 8 ms: stage 1 computes 12 of the 24 ms of a step, and stage 0 waits for it meanwhile."""
    summary = launch(tiny(**LOCKED, **SLOW, **WHOLE), tmp_path).summary
    events = read_trace(tmp_path)
    assert_in_order(events, 2)
    for stage, entry in enumerate(summary["stage"]):
        names = [e["name"] for e in slices_of(events, stage)]
        assert names.count("forward") == names.count("backward") == names.count("optimizer") == 10
        assert seconds(events, stage, "forward") >= 10 * 0.004
        assert seconds(events, stage, "backward") >= 10 * 0.008
        waits = seconds(events, stage, "wait for data", "wait for credit")
        assert waits >= 9 * 0.012
        assert entry["bubble"] == pytest.approx(waits / entry["timeline"]["span_s"], abs=1e-3)
        assert entry["busy"] == pytest.approx(1 - entry["bubble"], abs=0.03)
        assert entry["timeline"]["steps"] == 10
        assert entry["timeline"]["seconds"]["forward"] == pytest.approx(seconds(events, stage, "forward"), abs=1e-4)
    assert not (tmp_path / "timeline").exists()


def test_every_frame_goes_to_the_step_that_it_belongs_to(tmp_path: Path) -> None:
    """10 activations one way and 10 gradients the other, and what rides with neither: checkpoint, end, validation."""
    launch(tiny(**LOCKED, **WHOLE), tmp_path)
    wires = [(start["pid"], start["name"]) for start, _ in pairs(read_trace(tmp_path), "b", "e")]
    assert [name for pid, name in wires if pid == 1 and name.startswith("STEP")] == [f"STEP {n}" for n in range(1, 11)]
    back = [name for pid, name in wires if pid == 2 and name.startswith("GRADIENT")]
    assert back == [f"GRADIENT {n}" for n in range(1, 11)]
    assert wires.count((1, "EVALUATE 4")) == 2


def test_an_emulated_delay_is_on_the_wire(tmp_path: Path) -> None:
    launch(tiny(**LOCKED, **WHOLE, steps=3, transport={"delay_ms": 20}), tmp_path)
    events = read_trace(tmp_path)
    begun = {start["id"]: start["ts"] for start, _ in pairs(events, "s", "f")}
    times = [(end["ts"] - begun[end["id"]]) / 1000 for _, end in pairs(events, "b", "e")]
    assert all(time >= 20 for time in times)
    assert statistics.median(times) < 30


def test_only_the_chosen_steps_are_traced_and_the_run_stays_the_same(tmp_path: Path) -> None:
    method = {"depth": {"method": "synthetic", "lag": 1}, "checkpoint": {"every": None}}
    summary = launch(tiny(**method, profile=True, profile_after=3, profile_steps=2), tmp_path / "on").summary
    launch(tiny(**method), tmp_path / "off")
    events = read_trace(tmp_path / "on")
    assert_in_order(events, 2)
    for stage in range(2):
        named = [(e["name"], e["args"]["step"]) for e in slices_of(events, stage)]
        assert [step for name, step in named if name == "forward"] == [4, 5]
        assert "predictor" in {name for name, _ in named} or stage == 1
    assert [entry["timeline"]["steps"] for entry in summary["stage"]] == [2, 2]
    assert_same(parameters_of(tmp_path / "on", 2), parameters_of(tmp_path / "off", 2))
    plain = json.loads((tmp_path / "off" / "summary.json").read_bytes())
    assert "bubble" not in plain["stage"][0]
    assert not (tmp_path / "off" / "trace.json").exists()


def test_a_run_that_ends_before_the_first_traced_step_has_no_trace(tmp_path: Path) -> None:
    summary = launch(tiny(**LOCKED, profile=True, profile_after=50), tmp_path).summary
    assert "bubble" not in summary["stage"][0]
    assert not (tmp_path / "trace.json").exists()
    assert not (tmp_path / "timeline").exists()


@pytest.mark.long
@pytest.mark.parametrize("transport", ["grpc", "torch_distributed"])
def test_processes_share_one_clock(transport: str, tmp_path: Path) -> None:
    links = {"transport": {"kind": transport, "timeout_s": 30}, "launch": {"mode": "processes", "torch_threads": 1}}
    summary = launch(tiny(**LOCKED, **SLOW, **WHOLE, **links), tmp_path).summary
    events = read_trace(tmp_path)
    assert_in_order(events, 2)
    assert len([1 for start, _ in pairs(events, "b", "e") if start["name"].startswith(("STEP", "GRADIENT"))]) == 20
    for entry in summary["stage"]:
        assert entry["busy"] == pytest.approx(1 - entry["bubble"], abs=0.03)
        assert entry["bubble"] >= 0.3


@pytest.mark.long
@pytest.mark.parametrize(("method", "parts"), [("gpipe", 2), ("zero_bubble", 4)])
def test_a_pipeline_shows_its_microbatches(method: str, parts: int, tmp_path: Path) -> None:
    """2 stages, 4 microbatches, 10 steps: one forward and one backward pass of each on every part."""
    depth = {"method": method, "microbatches": 4}
    changes = {
        "depth": depth, "time": {"method": "truncated"}, "checkpoint": {"every": None},
        "model": {"units": 8, "layers": 7}, "launch": {"mode": "processes", "torch_threads": 1},
        "transport": {"kind": "grpc", "timeout_s": 30},
    }  # fmt: skip
    summary = launch(tiny(**changes, **SLOW, **WHOLE), tmp_path).summary
    events = read_trace(tmp_path)
    assert_in_order(events, 2)
    onward = (parts - 1) * 4 * 10
    assert len(pairs(events, "s", "f")) == 2 * onward
    for stage, entry in enumerate(summary["stage"]):
        names = [e["name"] for e in slices_of(events, stage)]
        assert names.count("forward") == parts // 2 * 4 * 10
        assert entry["busy"] == pytest.approx(1 - entry["bubble"], abs=0.03)
