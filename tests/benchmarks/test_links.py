"""The arithmetic of the benchmarks over links and of their forecasts. Other tests cover their runs."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.delay import copy_by_clock as reach
from benchmarks.delay import time_to_loss_curves as race
from benchmarks.delay.run import figures
from benchmarks.delay.simulated import checked, fit
from benchmarks.delay.throughput_tables import details, rates, reached

TIMES = (4.0, 8.0, 1.0)


def record(step: int, wall_s: float, busy: float, staleness: float | None = None, in_flight: int = 0) -> dict[str, Any]:
    return {"step": step, "wall_s": wall_s, "busy": busy, "staleness": staleness, "in_flight": in_flight}


def test_figures_are_those_between_the_first_and_the_last_record() -> None:
    """20 steps in 2 s and in 2.5 s; busy 0.5 of 4 s after 0.25 of 2 s: 1.5 of the 2 s between."""
    first = [record(8, 2.0, 0.25, 9.0, 7), record(16, 3.0, 0.4, 2.0, 3), record(28, 4.0, 0.5, 4.0, 5)]
    last = [record(8, 1.0, 1.0), record(28, 3.5, 1.0)]
    found = figures([first, last], bytes_per_s=900.0, cpu=[0.5, 0.25])
    assert found["updates_per_s"] == pytest.approx((10 + 8) / 2)
    assert found["busy"] == pytest.approx([0.75, 1.0])
    assert found["staleness"] == [3.0, None]
    assert found["in_flight"] == [5, 0]
    assert (found["bytes_per_step"], found["steps"]) == (pytest.approx(100.0), 20)
    assert found["cpu_ms"] == pytest.approx([1000 * 0.5 / 9, 1000 * 0.25 / 9])


def test_the_overhead_that_explains_a_rate_is_found() -> None:
    """One batch at a time: 4 stages of 12 ms, and 6 frames, each sent and received at 0.7 ms."""
    assert fit(1 / (0.048 + 6 * 2 * 0.0007), "backprop", 4, 32, TIMES) == pytest.approx(0.0007, abs=1e-7)
    later = 1 / (0.048 + 6 * (0.02 + 2 * 0.0007))
    assert fit(later, "backprop", 4, 32, TIMES, delay_ms=20) == pytest.approx(0.0007, abs=1e-7)


def measured(rate: float, late: float | None = None) -> dict[str, Any]:
    return {
        "updates_per_s": rate, "busy": [1.0, 0.5], "staleness": [late, None], "in_flight": [8, 0],
        "bytes_per_step": 2048.0,
    }  # fmt: skip


ROWS = {
    "backprop": {"delays": {"0": measured(1 / 0.048), "20": measured(1 / 0.168)}},
    "gpipe, M=4": {"delays": {"0": measured(47.0), "20": measured(7.0)}},
    "gpipe, M=8": {"delays": {"0": measured(60.0), "20": measured(6.5)}},
    "gpipe, M=8, 8 batches": {"delays": {"0": measured(7.5), "20": measured(4.0)}},
    "synthetic, W=8": {"delays": {"0": measured(70.0, 3.2), "20": measured(69.0, 8.4)}},
}


def test_forecasts_are_beside_measurements() -> None:
    """Backprop as measured without overhead; GPipe at 20 ms (M + 3) 12 / M + 120 ms, of 8 batches at once 96 for 12."""
    found = checked(ROWS, (0, 20), 4, 32, TIMES)
    assert found["backprop"]["20"]["over_measured"] == pytest.approx(1.0, abs=1e-5)
    assert found["gpipe, M=4"]["0"]["over_measured"] == pytest.approx(1.0, abs=1e-5)
    overhead = found["gpipe, M=8, 8 batches"]["20"]["overhead_ms"]
    large = 1000 / (11 / 8 * 96 + 120)
    assert found["gpipe, M=8, 8 batches"]["20"]["updates_per_s"] == pytest.approx(large, rel=0.06 + overhead / 10)
    assert found["gpipe, M=8, 8 batches"]["20"]["held"] == 8
    assert found["synthetic, W=8"]["0"]["updates_per_s"] == pytest.approx(1000 / 13, rel=1e-3)


def test_a_pipeline_of_equal_batches_has_the_parts_that_serve_it_best_at_each_delay() -> None:
    assert rates(ROWS, (0, 20)) == [
        ["backprop", "20.8", "6.0"],
        ["gpipe", "60.0 (M=8)", "7.0 (M=4)"],
        ["gpipe, M=8, 8 batches", "7.5", "4.0"],
        ["synthetic, W=8", "70.0", "69.0"],
    ]


def test_every_cell_has_a_run_with_equal_lag() -> None:
    body = {(line[0], line[1]): line for line in details(ROWS, checked(ROWS, (0, 20), 4, 32, TIMES), (0, 20))}
    assert body["gpipe, M=8, 8 batches", "20 ms"][2:4] == ["4.0", "1,024"]
    assert body["synthetic, W=8", "0 ms"][10] == reached("synthetic", [3.2])
    assert reached("synthetic", [3.2]).endswith("(lag 4)")
    assert reached("synthetic", [8.4]).endswith("(lag 16)")
    assert reached("delayed", [40.0]) == "later than 32"
    assert "lag" not in reached("gpipe", [])


def test_when_a_curve_reaches_a_loss() -> None:
    points = race.in_seconds([(100, 3.0), (200, 2.0), (300, 1.5)], rate=10)
    assert points == [(10.0, 3.0), (20.0, 2.0), (30.0, 1.5)]
    assert race.reaches(points, 3.5) == 10
    assert race.reaches(points, 2.25) == pytest.approx(17.5)
    assert race.reaches(points, 1.0) is None


def test_time_to_loss_takes_the_best_parts_and_the_equivalent_curve() -> None:
    rows = {
        "learned, backprop, seed 0": {"curve": [[10, 3.0], [20, 2.0]]},
        "learned, local, seed 0": {"curve": [[10, 2.5], [20, 1.8]]},
        "timed, backprop, seed 0": {"delays": {"0": {"updates_per_s": 5}}},
        "timed, local, seed 0": {"delays": {"0": {"updates_per_s": 20}}},
        "timed, gpipe M=4, seed 0": {"delays": {"0": {"updates_per_s": 8}}},
        "timed, gpipe M=8, seed 0": {"delays": {"0": {"updates_per_s": 10}}},
        "raced, delayed (rate of lag 1), 0 ms, seed 0": {"curve": [[10, 4.0], [20, 3.9]], "updates_per_s": 20},
        "raced, delayed (rate of lag 8), 0 ms, seed 0": {"curve": [[10, 3.0], [20, 2.1]], "updates_per_s": 20},
        "raced, delayed (rate of lag 8), 20 ms, seed 0": {"curve": [[10, 1.0], [20, 1.0]], "updates_per_s": 20},
    }  # fmt: skip
    assert race.raced(rows, 0) == {
        "backprop": [[(2.0, 3.0), (4.0, 2.0)]], "local": [[(0.5, 2.5), (1.0, 1.8)]],
        "gpipe": [[(1.0, 3.0), (2.0, 2.0)]], "delayed": [[(0.5, 3.0), (1.0, 2.1)]],
    }  # fmt: skip


def test_every_seed_is_compared_with_its_own_backprop() -> None:
    rows: dict[str, Any] = {
        f"learned, backprop, seed {seed}": {"curve": [[10, 3.0], [20, goal]]} for seed, goal in enumerate((2.0, 2.5))
    }
    rows["timed, backprop, seed 0"] = {"delays": {"20": {"updates_per_s": 2}}}
    for seed, last in enumerate((2.0, 2.0)):
        curve = [[10, 3.0], [20, last]]
        rows[f"raced, synthetic, 20 ms, seed {seed}"] = {"curve": curve, "updates_per_s": 10}
    curves = race.raced(rows, 20)
    assert race.seconds(rows, curves["backprop"]) == [10.0, 10.0]
    assert race.seconds(rows, curves["synthetic"]) == [2.0, 1.5]
    assert race.lines(rows, [20]) == [
        ["backprop", "10.0 ± 0.0", "500", "2.250"], ["synthetic", "1.8 ± 0.4", "100", "2.000"],
    ]  # fmt: skip
    first, *_ = race.bars(rows, [20])
    assert (first["value"], first["holds"]) == (pytest.approx(10 / 1.75, abs=1e-3), True)


def test_whole_sequences_take_as_long_as_they_are() -> None:
    """GPipe, M=4, at 20 ms and no overhead: a step of L time steps takes (7/4) 30 L / 4 + 120 ms."""
    rows = {"timed, gpipe M=4, seed 0": {"delays": {"20": {"updates_per_s": 1000 / (7 / 4 * 30 + 120)}}}}
    each, per_step = reach.seconds_of(rows, "gpipe", whole=True)
    assert each == pytest.approx(0.12, rel=1e-3)
    assert per_step == pytest.approx(7 / 4 * 0.03 / 4, rel=1e-3)
    assert reach.seconds_of(rows, "gpipe", whole=False) == (pytest.approx(7 / 4 * 0.03 + 0.12), 0.0)
