"""Targets that wait until the labels after their state are known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dni.time_targets.base import Bootstrap, PastWindow, StateTarget
from dni.types import IGNORED


@dataclass
class _Waiting:
    step: int
    gradient: Tensor
    labels: Tensor  # (B, labels known so far)
    done: Tensor  # (B,) bool: the sequence has ended


class DeferredTargets(Bootstrap):
    """Bootstrapped targets, each kept until the L labels after its state are known or all its sequences have ended.

    Keeps at most L / T + 1 targets with their labels. Labels after the end of a sequence are IGNORED.

    Args:
        future_labels: L.
    """

    def __init__(self, future_labels: int) -> None:
        self.future_labels = future_labels
        self._waiting: list[_Waiting] = []

    def targets(self, window: PastWindow, gradient: Tensor | None) -> list[StateTarget]:
        """Return the complete targets, oldest first, with their labels (B, L)."""
        reset, done_now = (rows.to(window.labels.device) for rows in (window.reset, window.done))
        for step, target, _ in super().targets(window, gradient):
            self._waiting.append(_Waiting(step, target, window.labels[:, :0], torch.zeros_like(reset)))
        for waiting in self._waiting:
            done = waiting.done.to(reset.device) | reset
            known = window.labels.masked_fill(done.unsqueeze(-1), IGNORED)
            waiting.labels = torch.cat([waiting.labels.to(known.device), known], dim=1)[:, : self.future_labels]
            waiting.done = done | done_now
        finished = [w for w in self._waiting if w.labels.shape[1] == self.future_labels or w.done.all()]
        self._waiting = [w for w in self._waiting if not any(w is other for other in finished)]
        return [StateTarget(w.step, w.gradient, self._padded(w.labels)) for w in finished]

    def state_dict(self) -> dict[str, Any]:
        return {"waiting": [vars(waiting) for waiting in self._waiting]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._waiting = [_Waiting(**waiting) for waiting in state["waiting"]]  # `targets` moves them to the device

    def _padded(self, labels: Tensor) -> Tensor:
        return torch.nn.functional.pad(labels, (0, self.future_labels - labels.shape[1]), value=IGNORED)
