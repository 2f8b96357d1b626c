"""workers/planning/forecast.py: the simulation is asked for what was measured; numbers by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.refusals import refusal_of
from tests.support.runs import tiny
from workers.planning.forecast import Circumstances, Measured, forecast
from workers.planning.partitions import Partition, StageCost

GIVEN = Circumstances(delay_s=0.01, bytes_per_s=1e6, overhead_s=0.0, window=4, microbatches=2)


def stage(forward_ms: float, backward_ms: float, update_ms: float = 0.0) -> StageCost:
    return StageCost(("a",), forward_ms / 1e3, backward_ms / 1e3, update_ms / 1e3, 0, 0)


#: 2 + 3 + 1 ms and 4 + 5 + 1 ms, 20 kB over the cut; a microbatch is half a batch, but takes more than half as long.
FOUND = Measured(
    whole=Partition("measured", ("b",), (stage(2, 3, 1), stage(4, 5, 1)), (20_000,)),
    parted=Partition("measured", ("b",), (stage(3, 4, 1), stage(3, 4, 1)), (10_000,)),
    cuts={"synthetic": [0.002, 0.0], "local": [0.001, 0.0]},
    time=[0.0, 0.0],
    refused={},
    most_parts=4,
)


def rate(method: str, found: Measured = FOUND, given: Circumstances = GIVEN, **settings: Any) -> float:
    return forecast(tiny(**settings), found, method, given).updates_per_s


def test_backprop_pays_for_all_stages_and_for_the_link_twice() -> None:
    told = forecast(tiny(), FOUND, "backprop", GIVEN)
    step = 0.006 + 0.010 + 2 * (0.010 + 0.020)
    assert told.updates_per_s == pytest.approx(1 / step)
    assert told.busy == pytest.approx([0.006 / step, 0.010 / step])
    assert told.bubble == pytest.approx(1 - 0.016 / 2 / step)


def test_methods_that_do_not_wait_are_as_fast_as_the_slowest_of_stages_and_wire() -> None:
    near = replace(GIVEN, delay_s=0.0, bytes_per_s=None)
    assert rate("synthetic", given=near) == pytest.approx(1 / 0.010, rel=0.01)
    assert rate("local", given=near) == pytest.approx(1 / 0.010, rel=0.01)
    assert rate("synthetic", given=replace(near, bytes_per_s=1e6)) == pytest.approx(1 / 0.020, rel=0.01)
    slow_predictor = replace(FOUND, cuts={"synthetic": [0.009, 0.0]})
    assert rate("synthetic", slow_predictor, near) == pytest.approx(1 / 0.015, rel=0.01)
    at_ends = replace(FOUND, time=[0.0, 0.005])
    assert rate("local", at_ends, near) == pytest.approx(1 / 0.015, rel=0.01)


def test_pipelines_take_what_microbatches_were_measured_to_take() -> None:
    """Two stages, two microbatches of 3 + 4 ms: three times that, and an update of 1 ms, half of it each time."""
    near = replace(GIVEN, delay_s=0.0, bytes_per_s=None)
    assert rate("gpipe", given=near) == pytest.approx(1 / (3 * 0.0075))


def test_emulated_passes_last_as_long_as_they_are_set_to() -> None:
    near = replace(GIVEN, delay_s=0.0, bytes_per_s=None)
    emulate = {"forward_ms": 20.0, "backward_ms": 30.0, "cut_ms": 4.0}
    assert rate("backprop", given=near, emulate=emulate) == pytest.approx(1 / (0.051 + 0.051))
    assert rate("synthetic", given=near, emulate=emulate) == pytest.approx(1 / 0.055, rel=0.01)


def test_on_one_machine_stages_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """18 ms of work an update, predictor included, on one core."""
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    near = replace(GIVEN, delay_s=0.0, bytes_per_s=None)
    told = forecast(tiny(), FOUND, "synthetic", near)
    assert told.here_per_s == pytest.approx(1 / 0.018)
    assert forecast(tiny(), FOUND, "backprop", near).here_per_s == pytest.approx(1 / 0.016)


def test_what_cannot_be_trained_is_refused_with_what_to_type() -> None:
    def said(method: str, found: Measured = FOUND, **given: Any) -> str | None:
        return refusal_of(forecast, tiny(), found, method, replace(GIVEN, **given))

    assert said("gpipe", replace(FOUND, parted=None), microbatches=3) == (
        "pipelines: 3 microbatches are no equal parts of data.batch=4: give --microbatches N"
    )
    assert said("1f1b", microbatches=1) == "1f1b: give --microbatches 2 or more, one for each stage"
    assert said("interleaved_1f1b", replace(FOUND, most_parts=3)) == (
        "interleaved_1f1b: 2 stages of 2 parts need 4 layers with parameters, and this model has 3"
    )
    assert said("local", replace(FOUND, refused={"local": "local: why"})) == "local: why"
