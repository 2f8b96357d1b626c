"""workers/planning/cut_cost.py: what predictors and local heads cost, stage by stage."""

from __future__ import annotations

from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.config.settings import Config
from workers.planning.cut_cost import CutCosts
from workers.planning.forecast import Circumstances
from workers.planning.plan import make_plan

GIVEN = Circumstances(delay_s=0.0, bytes_per_s=None, overhead_s=0.0, window=4, microbatches=2)


def cut(**changes: Any) -> Config:
    """A recurrent network of three stages."""
    model = {"kind": "lstm", "split_points": ["lstm2", "softmax"], **changes.pop("model", {})}
    return resolve(tiny(**{"stages": 3, "model": model, **changes}))[0]


@pytest.mark.parametrize("name", ["synthetic", "local"])
def test_every_cut_in_depth_costs_and_the_last_stage_has_none(name: str) -> None:
    first, second, last = CutCosts().in_depth(cut(), name)
    assert min(first, second) > 0
    assert last == 0


def test_a_larger_local_head_costs_more() -> None:
    small, large = (cut(depth={"method": "local", "hidden": hidden}) for hidden in (0, 2000))
    assert CutCosts().in_depth(large, "local")[0] > 2 * CutCosts().in_depth(small, "local")[0]


def test_cuts_in_time_cost_where_there_is_state_and_gradients_are_predicted() -> None:
    assert CutCosts().in_time(cut()) == [0.0] * 3  # time=truncated
    first, second, softmax = CutCosts().in_time(cut(time={"method": "synthetic"}))
    assert min(first, second) > 0
    assert softmax == 0


def test_a_predictor_that_fits_no_cut_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the synthetic cut of stage 0 cannot be measured: RuntimeError"):
        CutCosts().in_depth(cut(predictor={"depth": {"kind": "conv"}}), "synthetic")


def test_a_plan_says_which_updates_it_could_not_measure() -> None:
    """The critic on soft labels waits for labels that only a run has."""
    config = cut(time={"method": "synthetic"}, predictor={"time": {"kind": "soft_label_critic"}})
    notes = make_plan(config, GIVEN, []).notes
    assert any(
        note.startswith("the updates of time=synthetic count nothing: the time cut of stage 0") for note in notes
    )
