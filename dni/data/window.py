"""One training window, as every source of data gives it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Window(NamedTuple):
    """One window of every stream; or a batch of examples that are no sequences, each with one label."""

    inputs: Tensor  #: (B, T) int64; of examples: (B, ...) float32
    labels: Tensor  #: (B, T+L) int64: the T next characters, then L more; IGNORED beyond the sequence's end; or (B,);
    #: of regression (B, T, O) float32
    reset: Tensor  #: (B,) bool: the carried state starts anew with this window
    done: Tensor  #: (B,) bool: the sequence ends with this window; nothing that follows depends on the state
    own: Tensor | None = None  #: (B, 1) int64: labels of the first stage's own task, at the window's end

    @property
    def steps(self) -> int:
        """T: the time steps of the window; 1 for a batch of examples."""
        return 1 if of_examples(self.labels) else self.inputs.shape[1]


def of_examples(labels: Tensor) -> bool:
    """Whether they belong to examples that are no sequence: (B,) classes, or (B, O) numbers."""
    return labels.dim() == (2 if labels.is_floating_point() else 1)


def split_labels(value: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The labels that belong to a value (B, T, ...), and those that come after it: (B, T) and (B, L).

    Examples that are no sequence have one label each, (B,), and none after it: (B,) and (B, 0).
    """
    if of_examples(labels):
        return labels, labels.new_empty(len(labels), 0)
    steps = value.shape[1]
    return labels[:, :steps], labels[:, steps:]
