"""The monitor: records written to files, and failures of the display."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.records import end, plain, probe, train, valid
from workers.tracking import monitor as monitor_module
from workers.tracking.monitor import Monitor
from workers.tracking.summary import RunFacts, write_summary
from workers.tracking.terminal import Screen


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_and_valid_records_are_written_in_order(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(0, 10))
        assert lines(tmp_path) == [train(0, 10)]
        monitor(valid(10, 1.0))
        monitor({"kind": "checkpoint", "stage": 0, "step": 10, "path": "p"})
        monitor(end(0))
        assert lines(tmp_path) == [train(0, 10), valid(10, 1.0)]
    assert monitor.valid_history == [valid(10, 1.0)]


def test_the_last_probe_of_every_stage_is_in_its_summary(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(probe(0, 5)) + "\n" + json.dumps(probe(1, 5)) + "\n")
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(probe(1, 10, parameters=math.nan))
        monitor(end(0))
        monitor(end(1))
    assert lines(tmp_path) == [probe(0, 5), probe(1, 5), probe(1, 10, parameters=None)]
    first, second = (stage["probe"] for stage in monitor.summary_stages())
    assert (first["step"], first["parameters"]) == (5, 0.75)
    assert (second["step"], second["parameters"], second["truncated"]) == (10, None, 0.5)
    facts = RunFacts("synthetic", "synthetic", "x", 0, 2, "local", "threads", 4, None, 0.0, "tiny", None)
    summary = write_summary(tmp_path, facts, stages=monitor.summary_stages(), valid=[])
    assert [stage["probe"] for stage in summary["stage"]] == [first, second]


def test_non_finite_numbers_are_null(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(1, 10, loss=math.nan, bits_per_label=math.inf))
    assert lines(tmp_path) == [train(1, 10, loss=None, bits_per_label=None)]


def test_threads_do_not_mix_their_lines(tmp_path: Path) -> None:
    with Monitor(tmp_path, 4, 100, console=plain()[0]) as monitor:

        def emit(stage: int) -> None:
            for step in range(1, 101):
                monitor(train(stage, step))

        threads = [threading.Thread(target=emit, args=(stage,)) for stage in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    written = [(record["stage"], record["step"]) for record in lines(tmp_path)]
    assert sorted(written) == [(stage, step) for stage in range(4) for step in range(1, 101)]
    assert [step for stage, step in written if stage == 2] == list(range(1, 101))


def test_a_resumed_run_appends(tmp_path: Path) -> None:
    earlier = [train(1, 10), valid(10, 2.0)]
    text = "".join(json.dumps(record) + "\n" for record in earlier)
    (tmp_path / "metrics.jsonl").write_text(text + '{"kind": "valid", "sta')
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(valid(20, 1.0))
    assert lines(tmp_path) == [*earlier, valid(20, 1.0)]
    assert [record["step"] for record in monitor.valid_history] == [10, 20]


def test_a_whole_last_line_without_newline_is_kept(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(valid(10, 2.0)))
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(valid(20, 1.0))
    assert lines(tmp_path) == [valid(10, 2.0), valid(20, 1.0)]


def test_damaged_earlier_lines_are_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(json.dumps(train(0, 1)) + "\n{oops\n")
    with pytest.raises(ConfigError, match="line 2"), Monitor(tmp_path, 2, 40, console=plain()[0]):
        pass


def test_a_broken_display_is_logged_once_and_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(monitor_module, "TensorBoardWriter", broken)
    monkeypatch.setattr(Screen, "_draw", broken)
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        for step in range(1, 21):
            monitor(train(0, step))
    assert len(lines(tmp_path)) == 20
    assert sorted(record.getMessage().split()[0] for record in caplog.records) == ["TensorBoard", "terminal"]


def test_a_stuck_display_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    monkeypatch.setattr(Screen, "_draw", lambda self: stuck.wait(50))
    monkeypatch.setattr(monitor_module, "QUEUE_LIMIT", 8)
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        begun = time.monotonic()
        for step in range(1, 101):
            monitor(train(0, step))
        assert time.monotonic() - begun < 10
        assert len(lines(tmp_path)) == 100
        stuck.set()


def test_a_record_outside_the_block_is_refused(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        pass
    with pytest.raises(RuntimeError, match="inside its `with` block"):
        monitor(train(0, 1))
