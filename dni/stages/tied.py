"""Parameters that several stages share: tied weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from dni.errors import PartitionError
from dni.models.base import TiedKind
from dni.recurrent import Chain


@dataclass(frozen=True)
class Tied:
    """One parameter of several stages. The first of them owns it, the others hold replicas."""

    parameter: nn.Parameter
    names: dict[int, str]  #: its name in each of these stages, by their index, ascending

    @property
    def owner(self) -> int:
        """Index of the first stage that has the parameter."""
        return min(self.names)

    @property
    def name(self) -> str:
        """Its name at the owner."""
        return self.names[self.owner]


def tied(chains: Sequence[nn.Module]) -> list[Tied]:
    """Return the parameters that are in more than one of the stages, in the order of the unsplit model."""
    found: dict[int, Tied] = {}
    for stage, chain in enumerate(chains):
        for name, parameter in chain.named_parameters():
            found.setdefault(id(parameter), Tied(parameter, {})).names[stage] = name
    return [each for each in found.values() if len(each.names) > 1]


def replicas_of(ties: Sequence[Tied], stage: int) -> frozenset[str]:
    """Return the names of a stage's parameters that an earlier stage owns."""
    return frozenset(each.names[stage] for each in ties if stage in each.names and stage != each.owner)


def tied_names(parts: Sequence[nn.Module]) -> dict[str, str]:
    """Return the further names of parameters that several layers share, with the first name of each."""
    named = [pair for part in parts for pair in part.named_parameters(remove_duplicate=False)]
    first = {id(parameter): name for name, parameter in reversed(named)}
    return {name: first[id(parameter)] for name, parameter in named if first[id(parameter)] != name}


def treat_tied(chains: list[Chain], kind: TiedKind) -> list[Chain]:
    """Return the stages with their shared parameters as `kind` says.

    refuse: raise PartitionError. sum: leave them shared. copy: give each later stage its own, with equal values.
    """
    ties = tied(chains)
    if ties and kind is TiedKind.refuse:
        raise PartitionError(_refusal(ties[0]))
    if kind is TiedKind.sum:
        _refuse_stages_of_replicas(chains, ties)
        return chains
    copied = {stage for each in ties for stage in each.names if stage != each.owner}
    return [copy.deepcopy(chain) if stage in copied else chain for stage, chain in enumerate(chains)]


def _refusal(each: Tied) -> str:
    (owner, first), (other, second), *_ = each.names.items()
    return (
        f"{first} in stage {owner} and {second} in stage {other} are the same parameter: set model.tied=sum (stage "
        f"{owner} trains it with the gradients of both) or model.tied=copy (each trains its own), or cut so that both "
        "are in one stage"
    )


def _refuse_stages_of_replicas(chains: Sequence[nn.Module], ties: Sequence[Tied]) -> None:
    for stage, chain in enumerate(chains):
        names = {name for name, _ in chain.named_parameters()}
        if names and names <= replicas_of(ties, stage):
            raise PartitionError(
                f"stage {stage} has no parameter of its own: {', '.join(sorted(names))} belongs to an earlier stage; "
                "begin it at an earlier layer, or set model.tied=copy"
            )
