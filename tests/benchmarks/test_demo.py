"""The demo prints its expected time, the time left, and a table at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import demo
from benchmarks.time_left import TimeLeft, minutes

SUMMARY: dict[str, Any] = {
    "valid": {"bits_per_label": 2.0}, "tokens_per_s": 1000.0, "wall_s": 4.0, "data": {"sha256": "ab" * 32},
    "stage": [{"busy": 0.5, "staleness_mean": 1.0}] * 4,
}  # fmt: skip


def test_time_left_follows_the_pace_of_the_runs_that_are_done() -> None:
    now = [100.0]
    left = TimeLeft([60.0, 30.0, 210.0], lambda: now[0])
    assert (left.left_s, str(left)) == (300.0, "run 1 of 3")
    now[0] = 220.0  # twice as long as expected
    assert left.left_s == 300.0  # not known before the run has ended
    left.finished()
    assert (left.left_s, str(left)) == (480.0, "run 2 of 3, about 8 min left in all")
    now[0] = 235.0
    left.finished()
    assert (left.left_s, str(left)) == (315.0, "run 3 of 3, about 5 min left in all")
    now[0] = 500.0
    left.finished()
    assert left.left_s == 0.0


def test_times_are_rounded() -> None:
    said = [minutes(s) for s in (0, 7, 42, 89, 90, 130, 371)]
    assert said == [
        "about 5 s", "about 5 s", "about 40 s", "about 90 s", "about 2 min", "about 2 min", "about 6 min",
    ]  # fmt: skip


def test_expected_time_equals_the_recorded_time() -> None:
    """Compare with the recorded demo: time within a tenth, and equal numbers of runs."""
    recorded = json.loads((demo.RESULTS / "demo.json").read_text())
    expected = demo.expected_s()
    assert len(expected) == 8
    if not demo.QUICK:
        assert sum(expected) == pytest.approx(recorded["wall_s"], rel=0.1)


def test_demo_begins_with_the_time_and_ends_with_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_to_the_end(command: list[str]) -> tuple[int, str]:
        folder = Path(command[-1].removeprefix("hydra.run.dir="))
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
        return 0, ""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "run_to_the_end", run_to_the_end)
    monkeypatch.setattr(demo, "ngrams", lambda: {"unigram": 4.5})
    monkeypatch.setattr(demo, "report", lambda *_: print("the report"))
    demo.main()
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0].startswith("8 runs of one model, then one table: about ")
    rules = [line.strip("─ ") for line in lines if line.startswith("──")]
    assert rules[0] == "run 1 of 8"
    assert [rule[:10] for rule in rules[1:]] == [f"run {n} of 8" for n in range(2, 9)]
    assert all(rule.endswith("left in all") for rule in rules[1:])
    title = next(place for place, line in enumerate(lines) if "4-stage character LSTM" in line)
    assert max(place for place, line in enumerate(lines) if line.startswith('{"bar"')) == title - 1
    assert lines[-3].startswith("└")
    assert lines[-1].startswith("Pictures and report: outputs/demo/")
    (written,) = tmp_path.glob("outputs/demo/*/demo.json")
    assert [json.loads(line) for line in lines if line.startswith('{"bar"')] == json.loads(written.read_text())["bars"]
