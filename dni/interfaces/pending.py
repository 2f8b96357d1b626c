"""The value and labels that a decoupled interface keeps until the target of their step arrives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PendingPrediction:
    """A value that left a stage, with the context that the predictor saw."""

    value: Tensor
    labels: Tensor | None  #: labels, or other integers that the predictor sees
    rows: Tensor | None  #: (B,) bool: the rows of the batch that are kept; None: all

    @staticmethod
    def of(value: Tensor, labels: Tensor | None, done: Tensor | None) -> PendingPrediction:
        """Keep the rows whose sequence goes on (not `done`)."""
        value = value.detach()
        if done is None or not done.any():
            return PendingPrediction(value, labels, None)
        return PendingPrediction(value[~done], None if labels is None else labels[~done], ~done)

    def select(self, whole: Tensor) -> Tensor:
        """Return the kept rows of a tensor (B, ...)."""
        return (whole if self.rows is None else whole[self.rows.to(whole.device)]).to(self.value.device)

    def with_labels(self, more: Tensor | None) -> Tensor | None:
        """Return the labels, followed by `more` labels (B, L) of the whole batch."""
        return self.labels if more is None or self.labels is None else torch.cat([self.labels, self.select(more)], 1)

    def to(self, device: torch.device) -> PendingPrediction:
        """Return the same with all tensors on one device."""
        value, labels, rows = (None if x is None else x.to(device) for x in (self.value, self.labels, self.rows))
        assert value is not None
        return PendingPrediction(value, labels, rows)
