"""Monitor and summary: what reaches files and terminal, and what a broken display may not do."""

from __future__ import annotations

import io
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dni.errors import ConfigError
from workers import monitor as monitor_module
from workers.monitor import Monitor, Screen
from workers.summary import RunFacts, write_summary

LN2 = 0.6931471805599453
FACTS = RunFacts(
    depth="synthetic", time="truncated", experiment="chars", seed=3, stages=2, transport="local",
    launch="threads", window=4, lag=None, delay_ms=1.5, data_name="tiny", data_sha256="ab",
    devices=("cpu", "cpu"),
)  # fmt: skip


def train(stage: int, step: int, **figures: Any) -> dict[str, Any]:
    base = {
        "kind": "train",
        "stage": stage,
        "step": step,
        "wall_s": step / 10,
        "steps_per_s": 10.0,
        "busy": 0.5,
    }
    shown = {
        "queue": 1,
        "in_flight": 2,
        "staleness": 2.5,
        "cosine": 0.7,
        "predictor_loss": 0.1,
        "time_cosine": None,
    }
    return base | shown | {"loss": None, "bits_per_char": None} | figures


def valid(step: int, loss: float) -> dict[str, Any]:
    return {
        "kind": "valid",
        "stage": 1,
        "step": step,
        "wall_s": 1.0,
        "loss": loss,
        "bits_per_char": loss / LN2,
    }


def end(stage: int, **figures: Any) -> dict[str, Any]:
    base = {"kind": "end", "stage": stage, "step": 40, "wall_s": 4.0, "busy": 0.25, "steps_per_s": 10.0}
    means = {"staleness_mean": 2.5, "predictor_cosine": 0.5, "time_cosine": None, "peak_rss_mb": 100.0}
    return base | means | {"train_loss": None, "characters": 8000} | figures


def plain() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=200), text


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_train_and_valid_records_are_lines_as_they_come(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(0, 10))
        assert lines(tmp_path) == [train(0, 10)]
        monitor(valid(10, 1.0))
        monitor({"kind": "checkpoint", "stage": 0, "step": 10, "path": "p"})
        monitor(end(0))
        assert lines(tmp_path) == [train(0, 10), valid(10, 1.0)]
    assert monitor.valid_history == [valid(10, 1.0)]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(1, 10, loss=math.nan, bits_per_char=math.inf))
    assert lines(tmp_path) == [train(1, 10, loss=None, bits_per_char=None)]


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


def test_tensorboard_has_a_curve_per_stage_and_number(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(train(1, 10, loss=2.0))
        monitor(train(1, 20, loss=1.0))
        monitor(valid(20, 1.5))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("stage1/loss")] == [(10, 2.0), (20, 1.0)]
    assert [(e.step, e.value) for e in events.Scalars("stage1/valid_loss")] == [(20, 1.5)]
    assert "stage1/time_cosine" not in events.Tags()["scalars"]


def test_plain_lines_are_few_and_every_validation_has_one(tmp_path: Path) -> None:
    console, text = plain()
    with Monitor(tmp_path, 2, 100, console=console) as monitor:
        for step in range(1, 101):
            monitor(train(0, step))
            monitor(train(1, step, loss=LN2, bits_per_char=1.0))
        monitor(valid(50, LN2))
        monitor(valid(100, 2 * LN2))
    shown = text.getvalue().splitlines()
    assert [line for line in shown if line.startswith("validation")] == [
        "validation at step 50: 1.0000 bits/char (0.6931 nats)",
        "validation at step 100: 2.0000 bits/char (1.3863 nats)",
    ]
    progress = [line for line in shown if line.startswith("step ")]
    assert len(progress) == len(shown) - 2 == 2  # at once, and at the end
    loss = "loss 0.6931 nats (1.0000 bits/char)"
    assert progress[-1] == f"step 100 of 100 (100%) | 0:00:00 left | {loss} | 10.0 steps/s | busy 50% 50%"


def test_time_left_is_that_of_the_slowest_stage() -> None:
    screen = Screen(plain()[0], 2, 100, live=True)
    screen.show(train(0, 60, steps_per_s=10.0))
    screen.show(train(1, 40, steps_per_s=0.5))
    assert screen.progress() == "step 40 of 100 (40%) | 0:02:00 left"  # 60 steps at 0.5 a second
    screen.close()


def test_a_terminal_gets_the_table(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True)
    with Monitor(tmp_path, 3, 40, console=console) as monitor:
        monitor(train(1, 37, busy=0.83, bits_per_char=2.3456))
        monitor(valid(30, LN2))
    shown = text.getvalue()
    for part in (
        "staleness",
        "37",
        "83%",
        "2.3456",
        "step 37 of 40 (92%)",
        "validation at step 30: 1.0000 bits/char",
    ):
        assert part in shown


def test_a_broken_display_is_logged_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(monitor_module, "Board", broken)
    monkeypatch.setattr(Screen, "_draw", broken)
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        for step in range(1, 21):
            monitor(train(0, step))
    assert len(lines(tmp_path)) == 20
    assert sorted(record.getMessage().split()[0] for record in caplog.records) == ["TensorBoard", "terminal"]


def test_a_stuck_display_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_summary_has_the_agreed_layout(tmp_path: Path) -> None:
    with Monitor(tmp_path, 2, 40, console=plain()[0]) as monitor:
        monitor(valid(20, 3 * LN2))
        monitor(valid(40, 2 * LN2))
        monitor(end(1, wall_s=5.0, train_loss=1.5 * LN2, staleness_mean=None, predictor_cosine=None))
        monitor(end(0))
    summary = write_summary(tmp_path, FACTS, stages=monitor.summary_stages(), valid=monitor.valid_history)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    versions = summary.pop("versions")
    assert versions.keys() == {"python", "torch", "grpc", "dni"}
    common = {"busy": 0.25, "steps_per_s": 10.0, "time_cosine": None, "peak_rss_mb": 100.0, "device": "cpu"}
    assert summary == {
        "method": {"depth": "synthetic", "time": "truncated"},
        "experiment": "chars", "seed": 3, "stages": 2, "transport": "local", "launch": "threads",
        "steps": 40, "wall_s": 5.0, "tokens_per_s": 1600.0,  # 8000 characters in 5 s
        "train": {"loss": pytest.approx(1.5 * LN2), "bits_per_char": pytest.approx(1.5)},
        "valid": {"loss": 2 * LN2, "bits_per_char": pytest.approx(2.0)},
        "stage": [
            {"index": 0, "staleness_mean": 2.5, "predictor_cosine": 0.5, **common},
            {"index": 1, "staleness_mean": None, "predictor_cosine": None, **common},
        ],
        "restarts": 0, "interrupted": False, "data": {"name": "tiny", "sha256": "ab"},
        "window": 4, "lag": None, "delay_ms": 1.5,
    }  # fmt: skip


def test_throughput_leaves_validation_time_out_where_it_is_known(tmp_path: Path) -> None:
    stages = [{"index": 0, "step": 9, "wall_s": 4.0}, {"index": 1, "step": 8, "wall_s": 5.0, "train_s": 4.0}]
    stages[1]["characters"] = 8000
    summary = write_summary(tmp_path, FACTS, stages=stages, valid=[])
    assert (summary["tokens_per_s"], summary["steps"], summary["wall_s"]) == (2000.0, 8, 5.0)


def test_an_interrupted_run_without_ends_has_a_summary(tmp_path: Path) -> None:
    write_summary(tmp_path, FACTS, stages=[], valid=[], restarts=2, interrupted=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["wall_s"], summary["stage"]) == (None, None, [])
    assert (summary["restarts"], summary["interrupted"]) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
