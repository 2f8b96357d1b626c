"""The loss at the end of a network: its value, its gradient, and the count of correct outputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dni.errors import ConfigError
from dni.losses import count_rows, cross_entropy_gradient, summed_cross_entropy
from dni.losses import numbers as numbers_of
from dni.metrics.fit import bits, hits
from dni.misuse import label_misfit
from dni.plugin import Named
from dni.types import IGNORED


class Judgement(NamedTuple):
    """The loss and accuracy of one window."""

    loss: float  #: summed over batch and time
    hits: int  #: number of labels that the model predicted correctly
    labels: int  #: number of labels that count


@dataclass
class LossFunction(Named, ABC):
    """Base class of the losses.

    To add a loss, write a dataclass that subclasses this class, in a module of your own. Its fields are the settings of
    the section `loss`. Only `summed` is required.
    """

    #: Unit of the loss; figures in bits are recorded only for nats.
    unit: ClassVar[str] = "nats"

    #: Labels are numbers (..., O) instead of classes (...).
    numbers: ClassVar[bool] = False

    @abstractmethod
    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of an output (..., V) and its labels (...), summed over all of them: a scalar with graph.

        IGNORED labels add nothing. The stage divides means and parameter gradients by the number of labels.
        """

    def gradient(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss and its gradient with respect to the output."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            total = self.summed(leaf, labels)
            (gradient,) = torch.autograd.grad(total, leaf)
        return total.detach(), gradient

    def count(self, labels: Tensor) -> int:
        """Return the number of labels that count."""
        return int((labels != IGNORED).sum())

    def hits(self, output: Tensor, labels: Tensor) -> int:
        """Return the number of labels that have the largest score."""
        return hits(output, labels)

    def judge(self, output: Tensor, labels: Tensor) -> Judgement:
        """Return loss, hits and number of labels, which validation and `dni-evaluate` sum over windows."""
        return Judgement(self.summed(output, labels).item(), self.hits(output, labels), self.count(labels))

    def figures(self, total: Judgement) -> dict[str, float]:
        """Return the recorded figures of a pass: means per label."""
        found = {"loss": total.loss / total.labels}
        if self.unit == "nats":
            found["bits_per_label"] = bits(found["loss"])
        return found if self.numbers else {**found, "accuracy": total.hits / total.labels}

    def of_guessing(self, symbols: int) -> float:
        """Return the loss per label of a model that knows nothing; 0 if that is unknown.

        `symbols` is V, number of classes, or O, numbers of one label.
        """
        return 0.0

    def misfit(self, output: Tensor, labels: Tensor) -> str | None:
        """Say why torch could not compute the loss of these; None: the reason is unknown."""
        if labels.numel() != output[..., 0].numel():
            shapes = f"labels {tuple(labels.shape)} for an output of shape {tuple(output.shape)}"
            return f"{shapes}: one is needed for each row"
        return label_misfit("the output", output, labels)

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that this loss cannot take."""
        if self.numbers and not run.data.numbers:
            raise ConfigError(
                f"loss={self.name} needs numbers as labels, and the labels of data={run.data.name} are classes: set "
                "loss=cross_entropy (or data=series)"
            )
        if run.data.numbers and not self.numbers:
            raise ConfigError(
                f"loss={self.name} needs classes as labels, and the labels of data={run.data.name} are numbers: set "
                "loss=squared_error"
            )


@dataclass
class CrossEntropy(LossFunction):
    """Softmax cross-entropy, in nats."""

    name: ClassVar[str] = "cross_entropy"

    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        return summed_cross_entropy(output, labels)

    def gradient(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return cross_entropy_gradient(output, labels)

    def of_guessing(self, symbols: int) -> float:
        return math.log(symbols)


@dataclass
class SquaredError(LossFunction):
    """Half the squared error between an output (..., O) and labels (..., O); a row counts as one label."""

    name: ClassVar[str] = "squared_error"
    unit: ClassVar[str] = "squared error"
    numbers: ClassVar[bool] = True

    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        return (output - numbers_of(output, labels)).pow(2).sum() / 2

    def gradient(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        error = output.detach() - numbers_of(output, labels)
        return error.pow(2).sum() / 2, error

    def count(self, labels: Tensor) -> int:
        return count_rows(labels)

    def of_guessing(self, symbols: int) -> float:
        """Return O / 2, the loss of the mean of numbers with variance one."""
        return symbols / 2

    def hits(self, output: Tensor, labels: Tensor) -> int:
        """Return 0: a regression has no hits."""
        return 0

    def misfit(self, output: Tensor, labels: Tensor) -> str | None:
        return None
