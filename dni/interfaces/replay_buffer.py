"""What a predictor was fitted to before, to be fitted to again."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dni.predictors.base import Predictor


class Example(NamedTuple):
    """A value, the labels beside it, and the target gradient that came for it. Nobody may write to them any more."""

    value: Tensor
    labels: Tensor | None
    target: Tensor


class Replay:
    """The newest `size` examples: every fit to a new one is a fit to all of them.

    A batch of windows instead of a single one: the loss is the mean over the new example's and theirs, each of today's
    predictor against the target as it came. Nothing is drawn. Costs `size` values and targets, and as many more forward
    and backward passes of the predictor.
    """

    def __init__(self, size: int = 0) -> None:
        self._examples: deque[Example] = deque(maxlen=size)

    def loss(self, predictor: Predictor, new: Tensor) -> Tensor:
        """The mean of the new example's loss and of today's losses of those that are kept: a scalar."""
        if not self._examples:
            return new
        return torch.stack([new, *(predictor.fit(*example).loss for example in self._examples)]).mean()

    def keep(self, example: Example) -> None:
        """Take in an example; the oldest makes room for it."""
        self._examples.append(example)

    def state_dict(self) -> list[dict[str, Any]]:
        """The examples, oldest first."""
        return [example._asdict() for example in self._examples]

    def load_state_dict(self, state: list[dict[str, Any]], device: torch.device) -> None:
        """The inverse of `state_dict`, with all tensors on one device."""
        self._examples.clear()
        for example in state:
            here: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in example.items()}
            self.keep(Example(**here))
