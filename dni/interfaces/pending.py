"""What a decoupled interface remembers of a step until its target comes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class PendingPrediction:
    """A value that left a stage, and what is known beside it."""

    value: Tensor
    labels: Tensor | None  #: or other integers that the predictor sees
    rows: Tensor | None  #: of the batch that these are; None: all

    @staticmethod
    def of(value: Tensor, labels: Tensor | None, done: Tensor | None) -> PendingPrediction:
        """Only the rows that are not over."""
        value = value.detach()
        if done is None or not done.any():
            return PendingPrediction(value, labels, None)
        return PendingPrediction(value[~done], None if labels is None else labels[~done], ~done)

    def mine(self, whole: Tensor) -> Tensor:
        """The rows that this holds."""
        return (whole if self.rows is None else whole[self.rows.to(whole.device)]).to(self.value.device)

    def known(self, more: Tensor | None) -> Tensor | None:
        """The labels there were, then more of the whole batch's."""
        return self.labels if more is None or self.labels is None else torch.cat([self.labels, self.mine(more)], 1)

    def to(self, device: torch.device) -> PendingPrediction:
        """All tensors on one device."""
        value, labels, rows = (None if x is None else x.to(device) for x in (self.value, self.labels, self.rows))
        assert value is not None
        return PendingPrediction(value, labels, rows)
