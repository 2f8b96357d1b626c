"""dni/stages/cost_partition.py: the cut that is found is the best of all cuts, tried one by one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni.errors import PartitionError
from dni.models.base import TiedKind
from dni.stages.cost_partition import cheapest_cuts, most_stages, split_by_cost
from dni.stages.partition import partition

Rank = tuple[float, float, list[int]]


def best_of_all(
    costs: Sequence[int], stages: int, crossing: Sequence[int], apart: set[int], tolerance: float
) -> list[int] | None:
    """Every cut is tried: the slowest stage first, then bytes, squares and the first cut. None: there is no cut."""
    tried: list[tuple[float, Rank]] = []
    for cuts in combinations(sorted(set(range(1, len(costs))) - apart), stages - 1):
        each = [sum(costs[start:end]) for start, end in pairwise([0, *cuts, len(costs)])]
        over = sum(crossing[cut - 1] for cut in cuts)
        tried.append((max(each), (over, sum(one * one for one in each), list(cuts))))
    if not tried:
        return None
    limit = min(slowest for slowest, _ in tried) * (1 + tolerance)
    return min(rank for slowest, rank in tried if slowest <= limit)[2]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_other_cut_is_better(data: st.DataObject) -> None:
    """Small whole numbers, so that ties are many."""
    costs = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=9))
    crossing = data.draw(st.lists(st.integers(0, 3), min_size=len(costs), max_size=len(costs)))
    stages = data.draw(st.integers(1, len(costs)))
    apart = data.draw(st.sets(st.integers(1, len(costs)), max_size=3))  # where no cut may be
    tolerance = data.draw(st.sampled_from([0.0, 0.25, 1.0]))
    expected = best_of_all(costs, stages, crossing, apart, tolerance)

    def fits(start: int, end: int) -> bool:
        return start not in apart and (end not in apart or end == len(costs))

    assert (stages <= most_stages(len(costs), fits)) == (expected is not None)
    if expected is not None:
        assert cheapest_cuts(costs, stages, crossing=crossing, fits=fits, tolerance=tolerance) == expected


def test_a_slow_layer_stands_alone_and_fewer_bytes_decide_between_equal_cuts() -> None:
    assert cheapest_cuts([1, 1, 9, 1, 1], 3) == [2, 3]
    assert cheapest_cuts([4, 1, 1, 4], 2, crossing=[9, 9, 9, 0]) == [2]  # 5 and 5
    assert cheapest_cuts([2, 1, 0, 3], 2, crossing=[9, 8, 1, 0]) == [3]  # 3 and 3 at cut 2 as well
    assert cheapest_cuts([100, 2, 99], 2, crossing=[7, 1, 0]) == [1]  # 101 and 100, not 102 and 99
    assert cheapest_cuts([100, 2, 99], 2, crossing=[7, 1, 0], tolerance=0.01) == [2]


def model(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def test_split_points_are_names_that_partition_takes() -> None:
    """ReLU alone is no stage, however slow it is."""
    layers = {"a": nn.Linear(2, 2), "b": nn.ReLU(), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)}
    whole = model(**layers)
    assert split_by_cost(whole, [1, 50, 1, 1], 2) == ["c"]
    assert split_by_cost(whole, [50, 1, 1, 60], 2) == ["d"]
    assert split_by_cost(whole, [52, 1, 1, 50], 2) == ["b"]  # the ReLU may as well begin the second stage
    points = split_by_cost(whole, [1, 50, 2, 1], 3)
    assert [list(chain._modules) for chain in partition(whole, split_points=points)] == [["a", "b"], ["c"], ["d"]]


def test_layers_that_share_a_parameter_stay_together() -> None:
    shared = nn.Linear(2, 2)
    whole = model(a=nn.Linear(2, 2), b=shared, c=nn.Tanh(), d=shared, e=nn.Linear(2, 2))
    assert split_by_cost(whole, [1, 5, 5, 5, 1], 2) == ["b"]
    assert split_by_cost(whole, [1, 5, 5, 5, 1], 3) == ["b", "e"]
    with pytest.raises(PartitionError, match="stages is 4, but this model can be cut into 1 to 3: ask for 3 or fewer"):
        split_by_cost(whole, [1, 5, 5, 5, 1], 4)


@pytest.mark.parametrize(("tied", "points"), [(TiedKind.refuse, None), (TiedKind.sum, ["c"]), (TiedKind.copy, ["d"])])
def test_shared_parameters_may_be_in_two_stages_if_that_is_asked_for(tied: TiedKind, points: list[str] | None) -> None:
    """Without a parameter of its own, d is no stage with `sum`; of its own copy it is one."""
    shared = nn.Linear(2, 2)
    whole = model(b=shared, c=nn.Linear(2, 2), d=shared)
    if points is None:
        with pytest.raises(PartitionError, match="this model can be cut into 1 to 1"):
            split_by_cost(whole, [1, 1, 9], 2, tied=tied)
    else:
        assert split_by_cost(whole, [1, 1, 9], 2, tied=tied) == points
