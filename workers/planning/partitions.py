"""A cut of measured layers into stages: what each stage takes and holds, what crosses each cut, how even it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from workers.planning.measure import LayerCost


@dataclass(frozen=True)
class StageCost:
    """The layers of one stage, added up; of a whole batch."""

    layers: tuple[str, ...]
    forward_s: float
    backward_s: float
    update_s: float
    parameter_bytes: int
    activation_bytes: int

    @property
    def seconds(self) -> float:
        """Of one training step."""
        return self.forward_s + self.backward_s + self.update_s


@dataclass(frozen=True)
class Partition:
    """A model in K stages."""

    name: str  #: how it was found
    split_points: tuple[str, ...]  #: first layer of every part but the first
    stages: tuple[StageCost, ...]
    cut_bytes: tuple[int, ...]  #: of the tensor that crosses each cut, in each direction

    @property
    def slowest_s(self) -> float:
        """Seconds of the slowest stage."""
        return max(stage.seconds for stage in self.stages)

    @property
    def balance(self) -> float:
        """Slowest stage / mean stage; 1 is even."""
        return self.slowest_s * len(self.stages) / sum(stage.seconds for stage in self.stages)


def partition_of(name: str, costs: Sequence[LayerCost], points: Sequence[str], stages: int) -> Partition:
    """The partition with these split points. Of more parts than stages, part k is on stage k mod K."""
    names = [cost.name for cost in costs]
    starts = [0, *(names.index(point) for point in points), len(names)]
    parts = [[*costs[start:end]] for start, end in pairwise(starts)]
    held = [[cost for part in parts[k::stages] for cost in part] for k in range(stages)]
    return Partition(
        name, tuple(points), tuple(map(_added, held)), tuple(costs[start - 1].output_bytes for start in starts[1:-1])
    )


def _added(costs: Sequence[LayerCost]) -> StageCost:
    return StageCost(
        tuple(cost.name for cost in costs),
        sum(cost.forward_s for cost in costs),
        sum(cost.backward_s for cost in costs),
        sum(cost.update_s for cost in costs),
        sum(cost.parameter_bytes for cost in costs),
        sum(cost.activation_bytes for cost in costs),
    )
