"""Replay: a predictor is fitted to a new target together with earlier ones."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dni.interfaces.base import Interface
from dni.interfaces.synthetic import DecoupledInterface
from dni.methods.cut import CutContext
from dni.methods.synthetic import Synthetic
from dni.misuse import refuse_below
from dni.predictors.base import Predictor
from dni.ranges import zero_or_more


@dataclass
class SyntheticReplay(Synthetic):
    """Synthetic gradients whose predictor is fitted to several targets at a time (`ReplayInterface`)."""

    replay: int = zero_or_more(
        4
    )  # [targets] earlier ones that are fitted together with each target; they are kept with
    # their values

    name: ClassVar[str] = "replay"

    def interface(self, cut: CutContext) -> Interface:
        return cut.decoupled(ReplayInterface, memory=self.memory, replay=self.replay)


class ReplayInterface(DecoupledInterface):
    """A `DecoupledInterface` that fits each target together with the `replay` previous targets.

    Args:
        predictor, optimizer, settings: as of `DecoupledInterface`.
        replay: number of targets that are kept, with their values.
    """

    def __init__(
        self,
        predictor: Predictor,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        replay: int,
        **settings: Any,
    ) -> None:
        super().__init__(predictor, optimizer, **settings)
        refuse_below(0, replay=replay)
        self.replay = Replay(replay)

    def _learn(self, step: int, value: Tensor, labels: Tensor | None, target: Tensor) -> None:
        super()._learn(step, value, labels, target)
        self.replay.keep(Example(value, labels, target))

    def _fit_loss(self, newest: Tensor) -> Tensor:
        return self.replay.loss(self.predictor, newest)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "replay": self.replay.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.replay.load_state_dict(state["replay"], self.device)


class Example(NamedTuple):
    """A value, its labels and its target gradient. Do not write to them."""

    value: Tensor
    labels: Tensor | None
    target: Tensor


class Replay:
    """The newest `size` examples, which are fitted together with each new one.

    The loss is the mean over the new example and the kept ones, each with the current predictor. Nothing is drawn at
    random. The cost is memory for `size` values and targets, and `size` more forward and backward passes of the
    predictor per fit.
    """

    def __init__(self, size: int = 0) -> None:
        self._examples: deque[Example] = deque(maxlen=size)

    def loss(self, predictor: Predictor, new: Tensor) -> Tensor:
        """Return the mean of the new example's loss and the current losses of the kept ones, a scalar."""
        if not self._examples:
            return new
        return torch.stack([new, *(predictor.fit(*example).loss for example in self._examples)]).mean()

    def keep(self, example: Example) -> None:
        """Keep an example in the place of the oldest."""
        self._examples.append(example)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the examples, oldest first."""
        return [example._asdict() for example in self._examples]

    def load_state_dict(self, state: list[dict[str, Any]], device: torch.device) -> None:
        """The inverse of `state_dict`, with all tensors on one device."""
        self._examples.clear()
        for example in state:
            moved: dict[str, Any] = {name: None if x is None else x.to(device) for name, x in example.items()}
            self.keep(Example(**moved))
