"""Metrics that a run reports: bits per label, hits, n-gram baselines, cosines, the fit of predictors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def bits(nats: float) -> float:
    """Convert a cross-entropy from nats to bits."""
    return nats / math.log(2)


def hits(scores: Tensor, labels: Tensor) -> int:
    """Count the labels (...) whose score is the largest in its row (..., V); IGNORED labels never count."""
    return int((scores.argmax(dim=-1) == labels).sum())


def ngram_bits(train: Tensor, valid: Tensor, order: int, symbols: int, add: float = 0.1) -> float:
    """Return the cross-entropy on `valid`, in bits per character, of an n-gram model counted on `train`.

        p(x | c) = (count(c x) + add) / (count(c .) + add V),    c the order - 1 characters before x

    `train` and `valid` are one-dimensional tensors of ids below V = `symbols`. Order 1 is the unigram model. The first
    order - 1 characters of `valid` are context only. Raise ValueError if a text is shorter than `order`, or if the
    V^order n-grams cannot be numbered in 63 bits.
    """
    if order < 1 or symbols**order >= 2**63:
        raise ValueError(f"order {order} must be at least 1, and {symbols}^{order} below 2^63")
    if min(len(train), len(valid)) < order:
        raise ValueError(f"order {order} needs texts at least as long, not of {len(train)} and {len(valid)}")
    seen, asked = _ngrams(train, order, symbols), _ngrams(valid, order, symbols)
    together = _counts(seen, asked)
    before = _counts(seen // symbols, asked // symbols)
    return bits(-((together + add) / (before + add * symbols)).log().mean().item())


def _ngrams(ids: Tensor, order: int, symbols: int) -> Tensor:
    """Number every n-gram of the text in base `symbols`, first character first; (len - order + 1,) int64."""
    runs = ids.long().unfold(0, order, 1)
    weights = torch.tensor([symbols**power for power in reversed(range(order))])
    return (runs * weights).sum(dim=1)


def _counts(seen: Tensor, asked: Tensor) -> Tensor:
    """Count how often each number of `asked` occurs in `seen`; float64 in the shape of `asked`."""
    keys, counts = torch.unique(seen, return_counts=True)
    at = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
    return torch.where(keys[at] == asked, counts[at], 0).double()


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two flattened tensors with equal numbers of elements; 0.0 if either is zero."""
    x, y = a.detach().flatten(), b.detach().flatten()
    lengths = (torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)).item()
    if lengths < 1e-30 and x.dtype != torch.float64:  # squares may have underflowed
        return cosine(a.double(), b.double())
    return torch.dot(x, y).item() / lengths if lengths else 0.0


@dataclass
class FitMeter:
    """Sums over the updates of a predictor."""

    updates: int = 0
    loss: float = 0.0
    cosine: float = 0.0
    staleness: int = 0

    def means(self) -> dict[str, float | None]:
        """Return the mean predictor loss, cosine with the target, and staleness in steps; None before an update."""
        n = self.updates
        sums = {"predictor_loss": self.loss, "cosine": self.cosine, "staleness": self.staleness}
        return {key: value / n if n else None for key, value in sums.items()}

    def loss_since(self, before: FitMeter) -> float | None:
        """Return the mean predictor loss of the updates after `before`, an earlier copy of this meter; None if none."""
        n = self.updates - before.updates
        return (self.loss - before.loss) / n if n else None
