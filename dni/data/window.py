"""One training window, as every data source returns it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dni.named_tensors import Value


class Window(NamedTuple):
    """One window of every stream, or a batch of examples without time, each with one label."""

    inputs: Value  #: (B, T) int64, (B, T, D) float32 for series, (B, ...) float32 for examples, or a dict of tensors
    labels: Tensor  #: (B, T+L) int64: the T labels, then L more, IGNORED after the sequence's end; (B,) for examples;
    #: (B, T, O) float32 for regression
    reset: Tensor  #: (B,) bool: a sequence starts with this window, from a fresh state
    done: Tensor  #: (B,) bool: a sequence ends with this window, so that its state is not used any more
    local_labels: Tensor | None = None  #: (B, 1) int64: labels of the first stage's own task, at the window's end

    @property
    def steps(self) -> int:
        """T, the time steps of the window; 1 for a batch of examples."""
        if of_examples(self.labels):
            return 1
        return self.inputs.shape[1] if isinstance(self.inputs, Tensor) else self.labels.shape[1]


def of_examples(labels: Tensor) -> bool:
    """Return whether labels belong to examples without time: (B,) classes, or (B, O) numbers."""
    return labels.dim() == (2 if labels.is_floating_point() else 1)


def split_labels(value: Value, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Split labels (B, T+L) into those of a value (B, T, ...) and those after it: (B, T) and (B, L).

    Labels (B,) of examples without time, and those of named tensors, have none after them: (B, 0).
    """
    if of_examples(labels) or not isinstance(value, Tensor):
        return labels, labels.new_empty(len(labels), 0)
    steps = value.shape[1]
    return labels[:, :steps], labels[:, steps:]
