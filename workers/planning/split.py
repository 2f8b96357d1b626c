"""`model.split=measured`: split points from times that are measured once, before any stage starts."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from dni.models.base import SplitKind
from dni.stages.cost_partition import split_by_cost
from dni.stages.partition import named_layers
from workers.build.model import build_whole, parts_explained
from workers.config.settings import Config
from workers.planning.measure import LayerCost, measure_layers
from workers.planning.partitions import partition_of

log = logging.getLogger(__name__)

#: Cuts whose slowest stages differ by less are taken for equal: repeated measurements differ as much.
NOISE = 0.02


def settle_split(config: Config) -> Config:
    """Measure, and name the split points, where a new run asks for it. Raises ConfigError as `split_by_time`."""
    if config.model.split is not SplitKind.measured or config.resume is not None or config.parts == 1:
        return config
    refuse_too_many(config)
    costs = measure_layers(config)
    config = with_points(config, split_by_time(config, costs))
    cut = partition_of("measured", costs, config.model.split_points, config.stages)
    log.info(
        "model.split=measured: cut at %s; the slowest stage takes %.1f ms a step, the mean one %.1f ms",
        typed_points(config.model.split_points), cut.slowest_s * 1e3, cut.slowest_s / cut.balance * 1e3,
    )  # fmt: skip
    return config


def split_by_time(config: Config, costs: Sequence[LayerCost]) -> list[str]:
    """The split points of the cut whose slowest part is as fast as possible; of equal ones that with the fewest bytes
    at its cuts. Raises PartitionError if the model has fewer layers to cut between."""
    crossing = [cost.output_bytes for cost in costs]
    with parts_explained(config):
        return split_by_cost(
            build_whole(config), [cost.seconds for cost in costs], config.parts, crossing=crossing, tolerance=NOISE,
            tied=config.model.tied,
        )  # fmt: skip


def refuse_too_many(config: Config) -> None:
    """Raise PartitionError, before anything is measured, if the model cannot be cut into so many parts."""
    whole = build_whole(config)
    with parts_explained(config):
        split_by_cost(whole, [1.0] * len(named_layers(whole)), config.parts, tied=config.model.tied)


def with_points(config: Config, points: Sequence[str]) -> Config:
    """The same settings, cut there."""
    return replace(config, model=replace(config.model, split_points=[*points]))


def typed_points(points: Sequence[str]) -> str:
    """As they are typed."""
    return f"model.split_points=[{','.join(points)}]"
