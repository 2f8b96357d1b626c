"""Cut a model into stages by what its layers cost, so that the slowest stage is as fast as possible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate

from torch import nn

from dni.errors import PartitionError
from dni.models.base import TiedKind
from dni.stages.partition import named_layers

#: Whether the layers from the first index to before the second can be one stage.
Fits = Callable[[int, int], bool]

#: What is added up over stages, compared in order.
Weight = tuple[float, ...]


def split_by_cost(
    model: nn.Sequential,
    costs: Sequence[float],
    stages: int,
    *,
    crossing: Sequence[float] | None = None,
    tolerance: float = 0.0,
    tied: TiedKind = TiedKind.refuse,
) -> list[str]:
    """The split points, the names of the layers that begin a new stage, of the cheapest cut into `stages`.

    The arguments are those of `cheapest_cuts`, one cost for each layer. Every stage has a parameter of its own, and
    layers that share parameters stay together, unless `tied` lets stages share them (`dni.stages.tied`). Raises
    PartitionError if the model cannot be cut into so many.
    """
    layers = named_layers(model)
    fits = _can_be_stages([layer for _, layer in layers], tied)
    most = most_stages(len(layers), fits)
    if not 1 <= stages <= most:
        raise PartitionError(f"stages is {stages}, but this model can be cut into 1 to {most}: ask for {most} or fewer")
    cuts = cheapest_cuts(costs, stages, crossing=crossing, fits=fits, tolerance=tolerance)
    return [layers[cut][0] for cut in cuts]


def cheapest_cuts(
    costs: Sequence[float],
    stages: int,
    *,
    crossing: Sequence[float] | None = None,
    fits: Fits = lambda start, end: True,
    tolerance: float = 0.0,
) -> list[int]:
    """Where the stages but the first begin, in a cut of N layers into contiguous, non-empty stages.

    Of all cuts, those count whose slowest stage costs at most (1 + tolerance) times the least possible; of these the
    one with the least `crossing`; of equal ones the most even (the least sum of squared costs); then the one with the
    shortest first stage.

    Args:
        costs: of each layer, not negative.
        stages: K, of 1 to `most_stages`.
        crossing: of each layer, what a cut after it costs, such as bytes; None: nothing.
        fits: which runs of layers can be one stage.
        tolerance: share of the least slowest stage, such as the noise of a measurement.
    """
    count, sums = len(costs), [0.0, *accumulate(costs)]
    leaving = [*([0.0] * count if crossing is None else crossing[:-1]), 0.0]  # nothing leaves the last stage

    def cost(start: int, end: int) -> float:
        return sums[end] - sums[start]

    slowest, _ = _best(count, stages, fits, lambda start, end: (cost(start, end),), _larger)
    limit = slowest[0] * (1 + tolerance) * (1 + 1e-12)  # differences of sums are not exact
    _, cuts = _best(
        count,
        stages,
        lambda start, end: cost(start, end) <= limit and fits(start, end),
        lambda start, end: (leaving[end - 1], cost(start, end) ** 2),
        _added,
    )
    return cuts


def most_stages(count: int, fits: Fits) -> int:
    """The largest number of stages into which `count` layers can be cut; 0: not even one."""
    most = [0] * count + [0]
    for start in reversed(range(count)):
        rest = [
            1 + most[end] for end in range(start + 1, count + 1) if fits(start, end) and (most[end] or end == count)
        ]
        most[start] = max(rest, default=0)
    return most[0]


def _best(
    count: int,
    stages: int,
    fits: Fits,
    weigh: Callable[[int, int], Weight],
    join: Callable[[Weight, Weight], Weight],
) -> tuple[Weight, list[int]]:
    """The least weight of a cut into `stages`, and its cuts; of equal ones those that come first."""
    # found[i]: of the layers from i on, in as many stages as rounds so far
    found = {i: (weigh(i, count), list[int]()) for i in range(count) if fits(i, count)}
    for _ in range(stages - 1):
        more: dict[int, tuple[Weight, list[int]]] = {}
        for start in range(count):
            ways = [
                (join(weigh(start, cut), weight), [cut, *cuts])
                for cut, (weight, cuts) in found.items()
                if cut > start and fits(start, cut)
            ]
            if ways:
                more[start] = min(ways)
        found = more
    return found[0]


def _larger(one: Weight, other: Weight) -> Weight:
    return max(one, other)


def _added(one: Weight, other: Weight) -> Weight:
    return tuple(a + b for a, b in zip(one, other, strict=True))


def _can_be_stages(layers: Sequence[nn.Module], tied: TiedKind) -> Fits:
    """Which layers can be one stage: they have parameters, and no layer outside has one of these as well.

    sum: they have one that no layer before them has. copy: they have one.
    """
    owned = [{id(parameter) for parameter in layer.parameters()} for layer in layers]
    users = Counter(parameter for own in owned for parameter in own)

    def fits(start: int, end: int) -> bool:
        inside = Counter(parameter for own in owned[start:end] for parameter in own)
        if tied is not TiedKind.refuse:
            before = set().union(*owned[:start]) if tied is TiedKind.sum else set()
            return bool(inside.keys() - before)
        return bool(inside) and all(users[parameter] == times for parameter, times in inside.items())

    return fits
