"""The figures of a resumed run equal those of an uninterrupted one, except its times."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import summary_of
from tests.support.runs import tiny
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.sealed import read_sealed, write_sealed
from workers.tracking import sittings
from workers.tracking.run import read_metrics
from workers.tracking.sittings import id_of_folder, sitting, totals

STEPS, STOPPED = 23, 12  # neither is a multiple of log_every = 5: a record spans both sittings

#: Least time of each pass, so that times have a lower bound.
SLOW = {"forward_ms": 2.0, "backward_ms": 2.0}
TIMES = ("wall_s", "steps_per_s", "tokens_per_s", "busy", "waited_previous", "waited_next")
#: Figures that depend on the arrival of frames, and the memory of the process that runs all tests.
OF_THE_MOMENT = ("queue", "in_flight", "peak_rss_mb", "sent_bytes")

METHODS: dict[str, dict[str, Any]] = {
    "locked": {"depth": {"method": "backprop"}},
    "synthetic": {
        "depth": {"method": "synthetic", "lag": 1}, "time": {"method": "synthetic"}, "evaluate": {"probe": 5},
        "predictor": {"depth": {"warmup": 15}},
    },
    "local": {"depth": {"method": "local"}},
    "delayed": {"depth": {"method": "delayed", "lag": 1}},
    "unlocked": {"depth": {"method": "synthetic_inputs", "lag": 1}},
}  # fmt: skip


def figures(tree: Any, *, left_out: tuple[str, ...]) -> Any:
    """Remove the figures of these names from the tree."""
    if isinstance(tree, Mapping):
        return {key: figures(value, left_out=left_out) for key, value in tree.items() if key not in left_out}
    return [figures(value, left_out=left_out) for value in tree] if isinstance(tree, list) else tree


def lines_of(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` except those of kind sitting; the order between stages varies."""
    records = [record for record in read_metrics(run_dir / "metrics.jsonl") if record["kind"] != "sitting"]
    return sorted(records, key=lambda record: int(record["stage"]))


@pytest.mark.parametrize("method", METHODS)
def test_every_figure_equals_that_of_the_uninterrupted_run(method: str, tmp_path: Path) -> None:
    settings = {"emulate": SLOW, **METHODS[method]}
    launch(tiny(steps=STEPS, **settings), tmp_path / "whole")
    begun = time.monotonic()
    launch(tiny(steps=STOPPED, **settings, checkpoint={"every": None}), tmp_path / "first")
    launch(tiny(steps=STEPS, **settings, resume=str(tmp_path / "first")), tmp_path / "on")
    took = time.monotonic() - begun

    whole, on = (summary_of(tmp_path / name) for name in ("whole", "on"))
    own = (*TIMES, *OF_THE_MOMENT, "id", "sittings", "repeated")
    assert figures(on, left_out=own) == figures(whole, left_out=own)
    assert (whole["sittings"], on["sittings"]) == (1, 2)
    assert on["repeated"] == {"steps": 0, "s": 0.0}

    left_out = (*TIMES, *OF_THE_MOMENT)
    validated = [r for r in lines_of(tmp_path / "on") if r["kind"] == "valid" and r["step"] == STOPPED]
    lines = [record for record in lines_of(tmp_path / "on") if record not in validated[:1]]  # of the first run's end
    expected = [r for r in lines_of(tmp_path / "whole") if r["kind"] != "valid" or r["step"] != STOPPED]
    assert figures(lines, left_out=left_out) == figures(expected, left_out=left_out)

    floor = STEPS * sum(SLOW.values()) / 1000  # least seconds for the passes of one stage
    for summary in (whole, on):
        assert summary["wall_s"] >= floor
        assert all(stage["steps_per_s"] <= STEPS / floor for stage in summary["stage"])
        assert summary["tokens_per_s"] <= STEPS * 4 * 6 / floor  # B = 4 streams of T = 6 symbols
        assert all(0 < stage["busy"] <= 1 for stage in summary["stage"])
    assert on["wall_s"] <= took
    for stage in (0, 1):
        clock = [record["wall_s"] for record in lines if record["stage"] == stage]
        assert clock == sorted(clock)
    assert all(stage["peak_rss_mb"] >= 10 for stage in on["stage"])


def test_memory_is_the_maximum_over_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.runtime.tally.peak_rss_mb", lambda: 900.0)
    launch(tiny(steps=5), tmp_path / "first")
    monkeypatch.setattr("workers.runtime.tally.peak_rss_mb", lambda: 300.0)
    launch(tiny(steps=10, resume=str(tmp_path / "first")), tmp_path / "on")
    assert [stage["peak_rss_mb"] for stage in summary_of(tmp_path / "on")["stage"]] == [900.0, 900.0]


def test_repeated_steps_count_once_and_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed after step 20 with a checkpoint of step 10, then resumed on another machine."""
    monkeypatch.setattr(sittings, "machine", lambda: "ours")
    config = {"depth": {"method": "backprop"}, "checkpoint": {"every": 10}, "emulate": SLOW}
    launch(tiny(steps=20, **config), tmp_path)
    before = read_metrics(tmp_path / "metrics.jsonl")
    monkeypatch.setattr(sittings, "machine", lambda: "theirs")
    with caplog.at_level("INFO"):
        launch(tiny(steps=25, **config, resume=str(tmp_path), resume_step=10), tmp_path)
    summary, records = summary_of(tmp_path), read_metrics(tmp_path / "metrics.jsonl")
    assert summary["repeated"]["steps"] == 10
    assert summary["repeated"]["s"] == pytest.approx(before[-1]["wall_s"] - _up_to(before, 10), rel=0.5)
    assert summary["machines"] == ["ours", "theirs"]
    assert "resuming after step 10: at least 10 later steps" in caplog.text
    assert [r["step"] for r in records if r["kind"] == "train" and r["stage"] == 1] == [5, 10, 15, 20, 25]
    clock = [record["wall_s"] for record in records if record["stage"] == 1]
    assert clock == sorted(clock)
    assert clock[-1] < 2 * before[-1]["wall_s"] + 5


def _up_to(records: list[dict[str, Any]], step: int) -> float:
    return max(float(record["wall_s"]) for record in records if record["step"] <= step)


def test_sittings_add_up_and_keep_their_id(tmp_path: Path) -> None:
    first = sitting([], 0, None)
    trained = {"kind": "train", "stage": 1, "step": 14, "wall_s": 7.0}
    saved = {"kind": "train", "stage": 1, "step": 10, "wall_s": 5.0}
    second = sitting([first, saved, trained], 10, tmp_path)
    third = sitting([first, saved, second, trained | {"step": 11, "wall_s": 5.5}], 10, tmp_path)
    assert first["id"] == second["id"] == third["id"] != sitting([], 0, None)["id"]
    assert (second["repeated_steps"], second["repeated_s"], second["wall_s"]) == (4, 2.0, 5.0)
    total = totals([first, second, third])
    assert (total["sittings"], total["repeated"]) == (3, {"steps": 5, "s": 2.5})
    assert sitting([saved], 10, tmp_path)["id"] == id_of_folder(tmp_path)  # records without an id


def test_a_checkpoint_without_figures_is_read(tmp_path: Path) -> None:
    launch(tiny(steps=5), tmp_path / "first")
    for path in (tmp_path / "first" / "checkpoints").glob("*/stage-*.json"):
        plain = read_sealed(path)
        del plain["state"]["journal"]
        write_sealed(path, plain)
    assert "journal" not in checkpoint.load(tmp_path / "first", 5, 0)
    assert launch(tiny(steps=10, resume=str(tmp_path / "first")), tmp_path / "on").summary["steps"] == 10
