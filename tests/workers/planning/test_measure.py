"""workers/planning: what layers cost, and where a model is cut by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dni.errors import ConfigError, PartitionError
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.planning.measure import measure_layers
from workers.planning.partitions import partition_of
from workers.planning.split import settle_split, with_points

SLOW = "tests.support.planning.slow_layer.SlowThird"


def slow(**changes: Any) -> Config:
    """Three stages of the model with the slow layer, 16 sequences of 12 characters."""
    sections: dict[str, Any] = {
        "stages": 3,
        "model": {"_target_": SLOW, "split": "measured"},
        "data": {"batch": 16, "window": 12, "sequence": 24},
    }
    return resolve(tiny(**{**sections, **changes}))[0]


def test_the_slow_layer_stands_alone() -> None:
    """By parameters it does not: it has as few as its neighbours, and the embedding has most."""
    by_parameters = [[*chain._modules] for chain in build_chains(slow())]
    assert ["slow"] not in by_parameters
    assert settle_split(slow()).model.split_points == ["slow", "last"]


def test_sizes_are_those_of_the_tensors() -> None:
    """32 units in single precision; a linear layer keeps its input, an embedding its indices of 8 bytes."""
    config = slow()
    costs = {cost.name: cost for cost in measure_layers(config)}
    row, symbols = 16 * 12 * 4, config.model.symbols or 0
    assert costs["first"].parameter_bytes == 4 * (32 * 32 + 32)
    assert costs["embedding"].parameter_bytes == 4 * 32 * symbols
    assert [costs[name].output_bytes for name in ("first", "slow", "scores")] == [32 * row, 32 * row, symbols * row]
    assert (costs["embedding"].activation_bytes, costs["first"].activation_bytes) == (16 * 12 * 8, 32 * row)
    assert costs["slow"].activation_bytes == 61 * 32 * row  # its input, and what each tanh gives
    assert all(min(cost.forward_s, cost.backward_s, cost.update_s) > 0 for cost in costs.values())


def test_a_smaller_batch_costs_less_memory() -> None:
    whole, part = measure_layers(slow()), measure_layers(slow(), batch=4)
    assert [4 * cost.output_bytes for cost in part] == [cost.output_bytes for cost in whole]


def test_layers_with_state_and_layers_without_parameters_are_measured() -> None:
    config, _ = resolve(tiny(model={"kind": "lstm", "dropout": 0.3, "layers": 2}))
    costs = measure_layers(config)
    assert [cost.name for cost in costs] == ["embedding", "lstm1", "dropout1", "lstm2", "softmax"]
    assert [cost.parameter_bytes > 0 for cost in costs] == [True, True, False, True, True]
    assert costs[2].forward_s > 0


def test_torch_is_afterwards_as_it_was() -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    measure_layers(slow())
    assert torch.equal(torch.rand(4), expected)
    assert torch.get_num_threads() == threads


def test_what_was_cut_or_is_not_asked_for_is_left_alone() -> None:
    for config in (slow(model={"_target_": SLOW}), slow(resume="a folder"), slow(stages=1)):
        assert settle_split(config) is config


def test_more_stages_than_layers_are_refused_before_anything_is_measured() -> None:
    with pytest.raises(PartitionError, match="stages is 6, but this model can be cut into 1 to 5: ask for 5 or fewer"):
        settle_split(slow(stages=6))
    chunked = {"depth": {"method": "interleaved_1f1b"}, "transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
    with pytest.raises(PartitionError, match=r"stages=3 with depth\.virtual_stages=2 make 6 parts: stages is 6"):
        settle_split(slow(**chunked))


def test_a_layer_that_cannot_run_is_named() -> None:
    config, _ = resolve(tiny(model={"_target_": "tests.plugin.counting.Counter"}))  # which takes vectors
    with pytest.raises(ConfigError, match="model=Counter"):
        measure_layers(config)


def test_a_partition_adds_up_its_layers() -> None:
    config = slow()
    costs = measure_layers(config)
    cut = partition_of("by hand", costs, ["slow", "last"], 3)
    assert [stage.layers for stage in cut.stages] == [("embedding", "first"), ("slow",), ("last", "scores")]
    assert cut.cut_bytes == (16 * 12 * 32 * 4,) * 2
    assert cut.slowest_s == costs[2].seconds
    assert cut.balance == pytest.approx(3 * costs[2].seconds / sum(cost.seconds for cost in costs))
    several = partition_of("dealt out", costs, ["first", "slow", "last"], 2)
    assert [stage.layers for stage in several.stages] == [("embedding", "slow"), ("first", "last", "scores")]
    assert with_points(config, cut.split_points).model.split_points == ["slow", "last"]
