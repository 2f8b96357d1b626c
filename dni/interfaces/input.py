"""The interface at a stage's input: a prediction of what the previous stage will send."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor


class InputInterface(ABC):
    """Base class, and the contract. With it a stage need not wait for the forward pass of the previous stage."""

    @abstractmethod
    def predict(self, step: int, data: Tensor, reset: Tensor | None = None) -> Tensor:
        """Return the predicted input of `step` from its window of `data`.

        `reset` (B,) bool marks streams whose sequence starts with this window.
        """

    @abstractmethod
    def target(self, step: int, value: Tensor) -> None:
        """Learn from `value`, the input that has arrived for `step`. Ignore a step that is unknown or used."""

    def take_recent(self) -> dict[str, float | None]:
        """Return the figures since the last call, by name; None for those without a measurement."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything a checkpoint must hold."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
