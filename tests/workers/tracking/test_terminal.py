"""The display of a run: plain lines, and the table on a terminal."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.records import LN2, end, plain, probe, train, valid
from workers.tracking.monitor import Monitor
from workers.tracking.terminal import Screen


def test_plain_lines_are_few_and_every_validation_has_one(tmp_path: Path) -> None:
    console, text = plain()
    with Monitor(tmp_path, 2, 100, console=console) as monitor:
        for step in range(1, 101):
            monitor(train(0, step))
            monitor(train(1, step, loss=LN2, bits_per_label=1.0))
        monitor(valid(50, LN2))
        monitor(valid(100, 2 * LN2))
        monitor(valid(150, LN2) | {"accuracy": 0.256})
    shown = text.getvalue().splitlines()
    assert [line for line in shown if line.startswith("validation")] == [
        "validation at step 50: 1.0000 bits/label (0.6931 nats)",
        "validation at step 100: 2.0000 bits/label (1.3863 nats)",
        "validation at step 150: 1.0000 bits/label (0.6931 nats), 25.6% right",
    ]
    progress = [line for line in shown if line.startswith("step ")]
    assert len(progress) == len(shown) - 3 == 2  # the first one, and the last one
    loss = "loss 0.6931 nats (1.0000 bits/label)"
    stages = "busy 50% 50% | staleness 2.5 2.5 | cosine depth 0.70 0.70"
    assert progress[-1] == f"step 100 of 100 (100%) | 0:00:00 left | {loss} | 10.0 steps/s | {stages}"


def test_a_plain_line_has_the_figures_of_any_stage() -> None:
    screen = Screen(plain()[0], 3, 100, live=False)
    screen.show(train(0, 10, time_cosine=0.25))
    screen.show(train(2, 10, staleness=None, cosine=None, time_cosine=-0.5))
    assert screen.line().split(" | ")[3:] == [
        "busy 50% - 50%",  # the second stage has not reported yet
        "staleness 2.5 - -",
        "cosine depth 0.70 - -",
        "cosine time 0.25 - -0.50",
    ]
    locked = Screen(plain()[0], 1, 100, live=False)
    locked.show(train(0, 10, staleness=None, cosine=None))
    assert locked.line().split(" | ")[3:] == ["busy 50%"]


def test_a_loss_in_its_own_unit_has_no_bits() -> None:
    console, text = plain()
    screen, unit = Screen(console, 1, 100, live=False), {"unit": "squared error", "bits_per_label": None}
    screen.show(train(0, 10, loss=0.25, **unit))
    screen.show({"kind": "valid", "stage": 0, "step": 10, "loss": 0.5, "metrics": {"rmse": 1.0, "r2": None}, **unit})
    assert screen.line().split(" | ")[2] == "loss 0.2500 squared error"
    assert screen.validation() == "validation at step 10: loss 0.5000 squared error, rmse 1, r2 -"
    console.print(screen.table())
    assert "squared error)" in text.getvalue()
    assert "bits" not in text.getvalue()


def test_a_stage_keeps_its_last_figures() -> None:
    screen = Screen(plain()[0], 2, 100, live=False)
    screen.show(train(0, 10, busy=0.25))
    screen.show(train(0, 20, busy=None, cosine=None))
    screen.show({"kind": "checkpoint", "stage": 0, "step": 20})
    screen.show(end(0, step=25, busy=None, predictor_cosine=0.1))
    screen.show(end(1, step=25, busy=0.75, predictor_cosine=0.3, staleness_mean=None))  # no record before its end
    assert screen.line().split(" | ")[3:] == ["busy 25% 75%", "staleness 2.5 -", "cosine depth 0.70 0.30"]
    assert screen.progress().startswith("step 25 of 100")


def test_time_left_is_that_of_the_slowest_stage() -> None:
    screen = Screen(plain()[0], 2, 100, live=True)
    screen.show(train(0, 60, steps_per_s=10.0))
    screen.show(train(1, 40, steps_per_s=0.5))
    assert screen.progress() == "step 40 of 100 (40%) | 0:02:00 left"  # 60 steps at 0.5 a second
    screen.close()


def test_a_probe_is_one_line_once_all_stages_have_reported(tmp_path: Path) -> None:
    console, text = plain()
    with Monitor(tmp_path, 2, 100, console=console) as monitor:
        for step in (10, 20):
            monitor(probe(1, step, parameters=step / 40, time_cosine=None))
            monitor(probe(0, step, depth_cosine=-0.5))
        monitor(probe(1, 30))
    assert text.getvalue().splitlines() == [
        "probe at step 10: cosine parameters 0.75 0.25, time 0.25 -, depth -0.50 -",
        "probe at step 20: cosine parameters 0.75 0.50, time 0.25 -, depth -0.50 -",
    ]


def test_the_table_has_the_newest_probe_below_it() -> None:
    text = io.StringIO()
    screen = Screen(Console(file=text, width=160, force_terminal=True), 2, 100, live=True)
    screen.show(probe(0, 20))
    screen.show(probe(1, 20))
    screen.show(probe(0, 30))
    screen.close()
    assert "probe at step 30: cosine parameters 0.75 -, time 0.25 -" in text.getvalue()


def test_a_terminal_gets_the_table(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=True)
    with Monitor(tmp_path, 3, 40, console=console) as monitor:
        monitor(train(1, 37, busy=0.83, bits_per_label=2.3456))
        monitor(valid(30, LN2))
    shown = text.getvalue()
    for part in (
        "staleness",
        "37",
        "83%",
        "2.3456",
        "step 37 of 40 (92%)",
        "validation at step 30: 1.0000 bits/label",
    ):
        assert part in shown


def test_the_table_fits_eighty_columns() -> None:
    text = io.StringIO()
    screen = Screen(Console(file=text, width=80, force_terminal=True), 4, 200_000, live=True)
    for stage in range(4):
        figures = {"loss": 2.1234, "bits_per_label": 3.0634, "time_cosine": -0.25, "steps_per_s": 1234.5}
        screen.show(train(stage, 123_450 + stage, **figures))
    screen.show(valid(123_000, LN2))
    screen.close()
    shown = text.getvalue()
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    for part in ("123453", "2.1234", "3.0634", "1234.5", "50%", "2.5", "0.70", "-0.25"):
        assert part in shown


def test_log_lines_appear_above_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    text = io.StringIO()
    handler, root = logging.StreamHandler(sys.stdout), logging.getLogger()
    root.addHandler(handler)
    try:
        screen = Screen(Console(file=text, width=120, force_terminal=True), 1, 40, live=True)
        screen.show(train(0, 10))
        logging.getLogger("workers").warning("stopping after this step")
        screen.show(end(0, step=11))
        screen.close()
        logging.getLogger("workers").warning("after the table")
    finally:
        root.removeHandler(handler)
    shown = text.getvalue()
    assert shown.index("step 10 of 40") < shown.index("stopping after this step") < shown.rindex("step 11 of 40")
    assert capsys.readouterr().out == "after the table\n"


def test_the_first_line_waits_for_the_loss() -> None:
    console, text = plain()
    screen = Screen(console, 2, 100, live=False)
    screen.show(train(0, 10))
    assert text.getvalue() == ""
    screen.show(train(1, 10, loss=LN2, bits_per_label=1.0))
    assert "loss 0.6931 nats (1.0000 bits/label)" in text.getvalue()
    assert "loss -" not in text.getvalue()
    silent = Screen(plain()[0], 2, 100, live=False)
    silent.show(train(0, 10))
    assert "loss" not in silent.line()  # no loss is known
