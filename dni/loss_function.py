"""The loss at the end of a network: its value and gradient, and how answers are counted."""

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
from dni.metrics import bits, hits
from dni.misuse import label_misfit
from dni.plugin import Named
from dni.types import IGNORED


class Judgement(NamedTuple):
    """What the answers to one window come to."""

    loss: float  #: summed over batch and time
    hits: int  #: how many labels were hit
    labels: int  #: how many counted


@dataclass
class LossFunction(Named, ABC):
    """Base class of the losses.

    A loss of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `loss`. `summed` is all that it must have.
    """

    #: What it is measured in; figures in bits are recorded where these are nats.
    unit: ClassVar[str] = "nats"

    #: Its labels are numbers (..., O), and not classes (...).
    numbers: ClassVar[bool] = False

    @abstractmethod
    def summed(self, output: Tensor, labels: Tensor) -> Tensor:
        """The loss of an output (..., V) and its labels (...), summed over both: a scalar that autograd goes through.

        IGNORED labels count nothing. Means, and the parameters' gradients, are divided by the number of labels.
        """

    def gradient(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss, and its gradient with respect to the output."""
        with torch.enable_grad():
            leaf = output.detach().requires_grad_()
            total = self.summed(leaf, labels)
            (gradient,) = torch.autograd.grad(total, leaf)
        return total.detach(), gradient

    def count(self, labels: Tensor) -> int:
        """How many labels count."""
        return int((labels != IGNORED).sum())

    def hits(self, output: Tensor, labels: Tensor) -> int:
        """How many labels are hit: they have the largest of their scores."""
        return hits(output, labels)

    def judge(self, output: Tensor, labels: Tensor) -> Judgement:
        """Loss, hits and number of the labels, as validation and `dni-evaluate` add them up."""
        return Judgement(self.summed(output, labels).item(), self.hits(output, labels), self.count(labels))

    def figures(self, total: Judgement) -> dict[str, float]:
        """What is recorded of all windows of a pass: means per label."""
        found = {"loss": total.loss / total.labels}
        if self.unit == "nats":
            found["bits_per_label"] = bits(found["loss"])
        return found if self.numbers else {**found, "accuracy": total.hits / total.labels}

    def of_guessing(self, symbols: int) -> float:
        """What a label costs a model of V (or O) = `symbols` that knows nothing; 0: that is not known."""
        return 0.0

    def misfit(self, output: Tensor, labels: Tensor) -> str | None:
        """Why the loss of these cannot be computed, where torch has refused them; None: that is not known."""
        if labels.numel() != output[..., 0].numel():
            shapes = f"labels {tuple(labels.shape)} for an output of shape {tuple(output.shape)}"
            return f"{shapes}: one is needed for each row"
        return label_misfit("the output", output, labels)

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that do not go with it."""
        if self.numbers and not run.data.numbers:
            raise ConfigError(
                f"loss={self.name} is of numbers, and the labels of data={run.data.name} are classes: set "
                "loss=cross_entropy (or data=series)"
            )
        if run.data.numbers and not self.numbers:
            raise ConfigError(
                f"loss={self.name} is of classes, and the labels of data={run.data.name} are numbers: set "
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
    """Half the squared error of an output (..., O) against numbers (..., O); a row counts as one label."""

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
        """Half a row's numbers: the mean as the answer, where numbers have a variance of one."""
        return symbols / 2

    def hits(self, output: Tensor, labels: Tensor) -> int:
        """None: numbers are not hit."""
        return 0

    def misfit(self, output: Tensor, labels: Tensor) -> str | None:
        return None
