"""Find labels that belong to other inputs than those they stand beside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dni.data.window import of_examples
from dni.named_tensors import Value
from dni.types import IGNORED

#: Share of labels that are the input some steps away, from which on they count as a copy of it.
COPY = 0.99

#: Distances in steps: of the next symbol, and of those that a mistake by one or two makes of it.
NEXT, WRONG = 1, (0, 2, 3)

#: Standard deviations above chance from which on neighbours share their label, and up to which they do not.
SURE, CHANCE = 6.0, 3.0

#: Fewest examples to tell.
FEWEST = 32


def misaligned(inputs: Value, labels: Tensor) -> str | None:
    """Say how labels are off by one or two, or return None if nothing shows it.

    Symbols (B, T) whose labels are the same symbols must have the next one. Of examples, those with similar inputs must
    share their label as often as those beside them, in the order of the batch.
    """
    if not isinstance(inputs, Tensor):
        return None
    if labels.dim() == 2 and labels.shape == inputs.shape and not inputs.is_floating_point():
        return _shifted(inputs, labels)
    if of_examples(labels) and not labels.is_floating_point() and inputs.is_floating_point():
        return _moved(inputs.flatten(1).float(), labels)
    return None


def _shifted(inputs: Tensor, labels: Tensor) -> str | None:
    for steps in WRONG:
        beside = inputs[:, steps:], labels[:, : labels.shape[1] - steps]
        counted = beside[1] != IGNORED
        equal = (beside[0] == beside[1])[counted].float().mean().item() if counted.any() else 0.0
        if equal >= COPY and beside[1][counted].min() < beside[1][counted].max():
            where = "the inputs themselves" if steps == 0 else f"the inputs {steps} steps later"
            return f"the labels are {where}, and the next symbol is {NEXT} step later: they are off by {abs(steps - 1)}"
    return None


def _moved(inputs: Tensor, labels: Tensor) -> str | None:
    """Compare every label with that of the nearest other input, as given and moved by one example."""
    if len(labels) < FEWEST:
        return None
    distances = torch.cdist(inputs, inputs)
    distances.fill_diagonal_(math.inf)
    nearest = distances.argmin(dim=1)
    score = {by: _score(labels.roll(by), nearest) for by in (-1, 0, 1)}
    best = max(score, key=lambda by: score[by])
    if best and score[0] < CHANCE and score[best] > SURE:
        other = "previous" if best < 0 else "next"
        return f"the labels belong to the {other} example: similar inputs share their labels only when moved by one"
    return None


def _score(labels: Tensor, nearest: Tensor) -> float:
    """Return how far above chance nearest inputs share their label, in standard deviations."""
    shares = torch.bincount(labels).double() / len(labels)
    chance = shares.square().sum().item()
    hits = (labels == labels[nearest]).double().sum().item()
    return (hits - len(labels) * chance) / math.sqrt(max(1e-9, len(labels) * chance * (1 - chance)))
