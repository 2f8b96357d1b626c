"""Cut a model into stages, at named layers or into parts of about equal size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from dni.errors import PartitionError
from dni.models.base import TiedKind
from dni.recurrent import Chain
from dni.stages.tied import treat_tied

Layers = list[tuple[str, nn.Module]]


def partition(
    model: nn.Sequential,
    *,
    stages: int | None = None,
    split_points: Sequence[str] = (),
    tied: TiedKind = TiedKind.refuse,
) -> list[Chain]:
    """Cut a sequence of layers into K chains. The layers, their names and their state dict keys do not change.

    `split_points` names the layers that begin a new stage. Without it, cut the model into `stages` contiguous parts
    with the smallest possible largest parameter count; among equally good cuts, take the shortest first stage. Layers
    without parameters stay with the layer before them. Without either argument, return one stage. `tied` says what
    becomes of a parameter that two stages share (`dni.stages.tied`). Raise PartitionError if the cut is impossible, or
    if that is refused.
    """
    layers = named_layers(model)
    if split_points and stages is not None and stages != len(split_points) + 1:
        raise PartitionError(
            f"split_points names {len(split_points)} layers, which makes {len(split_points) + 1} stages, "
            f"but stages is {stages}: leave one of the two out"
        )
    cuts = (
        _named_cuts(layers, split_points) if split_points else _balanced_cuts(layers, 1 if stages is None else stages)
    )
    chains = [Chain(OrderedDict(layers[start:end])) for start, end in pairwise([0, *cuts, len(layers)])]
    _refuse_stages_without_parameters(chains)
    return treat_tied(chains, tied)


def named_layers(model: nn.Sequential) -> Layers:
    """Name and module of every layer, in order. Raises PartitionError for what has no layers to cut between."""
    if not isinstance(model, nn.Sequential):
        raise PartitionError(f"cannot cut a {type(model).__name__}: put its layers into an nn.Sequential")
    if not len(model):
        raise PartitionError("the model has no layers to cut")
    # Not named_children(), which skips the second use of a layer.
    return [(name, layer) for name, layer in model._modules.items() if layer is not None]


def _named_cuts(layers: Layers, split_points: Sequence[str]) -> list[int]:
    names = [name for name, _ in layers]
    unknown = [name for name in split_points if name not in names]
    if unknown:
        raise PartitionError(f"split_points: no layer {', '.join(unknown)}; the layers are {', '.join(names)}")
    cuts = [names.index(name) for name in split_points]
    if 0 in cuts:
        raise PartitionError(f"split_points: {names[0]} is the first layer, before which there is no cut; leave it out")
    in_order = sorted(set(cuts))
    if cuts != in_order:
        wanted = ", ".join(names[cut] for cut in in_order)
        raise PartitionError(f"split_points: [{', '.join(split_points)}] is out of order; use [{wanted}]")
    return cuts


def _balanced_cuts(layers: Layers, stages: int) -> list[int]:
    starts, sizes = _groups(layers)
    if not 1 <= stages <= len(starts):
        movable = ", ".join(layers[start][0] for start in starts)
        raise PartitionError(
            f"stages is {stages}, but this model can be cut into 1 to {len(starts)}, beginning at {movable}"
        )
    return [starts[cut] for cut in _even_cuts(sizes, stages)]


def _groups(layers: Layers) -> tuple[list[int], list[int]]:
    """Group each layer with parameters with the ones without after it; return the groups' starts and sizes."""
    sizes = [sum(p.numel() for p in layer.parameters()) for _, layer in layers]
    # Layers without parameters at the very start belong to the first group.
    starts = [0, *[i for i, size in enumerate(sizes) if size][1:]]
    return starts, [sum(sizes[start:end]) for start, end in pairwise([*starts, len(sizes)])]


def _even_cuts(sizes: Sequence[int], parts: int) -> list[int]:
    """Cut `sizes` into `parts` contiguous, non-empty groups so that the largest sum is as small as possible."""
    count = len(sizes)
    # best[i]: (largest sum, cuts) of sizes[i:] cut into `more` parts, after that round.
    best: list[tuple[int, list[int]]] = [(sum(sizes[i:]), []) for i in range(count)]
    for more in range(2, parts + 1):
        last = count - more + 1
        best = [
            min((max(sum(sizes[i:cut]), best[cut][0]), [cut, *best[cut][1]]) for cut in range(i + 1, last + 1))
            for i in range(last)
        ]
    return best[0][1]


def _refuse_stages_without_parameters(chains: Sequence[Chain]) -> None:
    for stage, chain in enumerate(chains):
        if not any(True for _ in chain.parameters()):
            layers = ", ".join(name for name, _ in chain.named_children())
            raise PartitionError(
                f"stage {stage} ({layers}) has no parameters to train: begin the next stage at a later layer"
            )
