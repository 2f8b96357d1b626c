"""Which of the saved parts a part of the model goes on from: as a whole, at its cuts, and in what it carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dni.recurrent import Chain, Recurrent
from dni.rng import is_stochastic
from workers.build.warm_start import layers_of
from workers.repartition.saved import SavedPart

Layers = dict[str, nn.Module]
"""All layers of the model, by name."""


@dataclass(frozen=True)
class Matches:
    """The saved parts that one part of the model has to do with."""

    sharing: list[SavedPart]  #: those with a layer of it, in order
    same: SavedPart | None  #: it has the same layers
    cut: SavedPart | None  #: it ends with the same layer
    entry: SavedPart | None  #: it begins with the same layer
    carrying: SavedPart | None  #: it has the same layers with a carried state, one or more
    drawing: SavedPart | None  #: it has the same layers that draw random numbers, one or more

    @property
    def last(self) -> SavedPart:
        """The one that holds its last layer."""
        return self.sharing[-1]


def layers_by_name(chains: Sequence[Chain]) -> Layers:
    """Of all parts of the model."""
    return {name: layer for chain in chains for name, layer in chain.named_children()}


def match(saved: Sequence[SavedPart], own: tuple[str, ...], layers: Layers) -> Matches:
    """For the part with the layers `own`."""
    carrying, drawing = carrying_state(own, layers), drawing_numbers(own, layers)
    return Matches(
        sharing=[part for part in saved if {*part.layers} & {*own}],
        same=next((part for part in saved if part.layers == own), None),
        cut=next((part for part in saved if part.layers[-1] == own[-1]), None),
        entry=next((part for part in saved if part.layers[0] == own[0]), None),
        carrying=next((p for p in saved if carrying and carrying_state(p.layers, layers) == carrying), None),
        drawing=next((p for p in saved if drawing and drawing_numbers(p.layers, layers) == drawing), None),
    )


def match_all(saved: Sequence[SavedPart], chains: Sequence[Chain]) -> list[Matches]:
    """For each part of the model."""
    layers = layers_by_name(chains)
    return [match(saved, layers_of(chain), layers) for chain in chains]


def carrying_state(names: Sequence[str], layers: Layers) -> list[str]:
    """Those of these layers that carry a state from window to window."""
    return [name for name in names if isinstance(layers[name], Recurrent)]


def drawing_numbers(names: Sequence[str], layers: Layers) -> list[str]:
    """Those of these layers that draw random numbers in training."""
    return [name for name in names if is_stochastic(layers[name])]
