"""A critic with any head: a model of the labels that sees whole values; its gradient is the synthetic gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.loss_function import CrossEntropy, LossFunction
from dni.losses import count_rows
from dni.predictors.base import Fit, Predictor


class HeadCritic(Predictor):
    """The loss of a head h on the labels y, and its gradient with respect to the value v:

        C(v) = sum over batch and time of loss(h(v), y),    dC/dv by automatic differentiation.

    Unlike with `SoftmaxCritic`, a row's gradient may depend on other rows of the same example, where the head mixes
    time steps. `fit` returns C / rows + gradient_weight |dC/dv - target|^2 / rows (Czarnecki et al. 2017); with
    `eager_loss` the first term is learned as soon as the value leaves, and `LocalInterface` with the same head is the
    same without the second term.

    Args:
        head: from values (B, T, D), (B, D) or (B, C, H, W) to scores (B, T, V) or (B, V).
        features: D or C of the value.
        classes: V; 0 if labels are numbers.
        gradient_weight: weight of the squared distance to the target gradient; 0 learns nothing from targets.
        eager_loss: learn C from every value at once, before its target.
        function: the loss; None: softmax cross-entropy.
    """

    def __init__(
        self,
        head: nn.Module,
        *,
        features: int,
        classes: int,
        gradient_weight: float = 0.0,
        eager_loss: bool = True,
        function: LossFunction | None = None,
    ) -> None:
        super().__init__()
        self.head, self.function = head, function or CrossEntropy()
        self.features, self.classes = features, classes
        self.gradient_weight, self.eager_loss = gradient_weight, eager_loss
        self.fits = bool(gradient_weight) or not eager_loss

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        with torch.enable_grad():
            leaf = value.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._summed(leaf, labels), leaf)
        return gradient

    def fit(self, value: Tensor, labels: Tensor | None, target: Tensor) -> Fit:
        leaf = value.detach().requires_grad_()
        loss = self._summed(leaf, labels)
        (prediction,) = torch.autograd.grad(loss, leaf, create_graph=True)
        rows = count_rows(_given(labels))
        distance = self.gradient_weight * (prediction - target).pow(2).sum() / rows
        return Fit(distance if self.eager_loss else distance + loss / rows, prediction)

    def known(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        return self._summed(value, labels) / count_rows(_given(labels)) if self.eager_loss else None

    def learn(self, value: Tensor, labels: Tensor | None) -> Tensor | None:
        if not self.eager_loss:
            return None
        leaf = value.detach().requires_grad_()
        trained = [each for each in self.parameters() if each.requires_grad]
        with torch.enable_grad():
            gradient, *own = torch.autograd.grad(self._summed(leaf, labels), [leaf, *trained])
        rows = count_rows(_given(labels))
        for parameter, summed in zip(trained, own, strict=True):
            parameter.grad = summed / rows
        return gradient

    def _summed(self, value: Tensor, labels: Tensor | None) -> Tensor:
        scores, labels = self.head(value), _given(labels)
        if scores.shape[:-1] != labels.shape[: scores.dim() - 1]:
            raise UsageError(f"labels {tuple(labels.shape)} do not match scores of shape {tuple(scores.shape)}")
        return self.function.summed(scores, labels)


def _given(labels: Tensor | None) -> Tensor:
    if labels is None:
        raise ValueError("a head learns from labels, but the step has none")
    return labels
