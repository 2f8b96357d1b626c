"""Losses summed over batch and time, and their gradients in closed form."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dni.types import IGNORED


def squared_distance(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the squared Euclidean distance per row, averaged over rows: a scalar."""
    return (prediction - target).pow(2).sum() / (target.numel() / target.shape[-1])


def summed_cross_entropy(output: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy of output (..., V) and labels (...) in nats; IGNORED labels add nothing."""
    rows = output.reshape(-1, output.shape[-1])
    return F.cross_entropy(rows, labels.reshape(-1), ignore_index=IGNORED, reduction="sum")


def _mean_loss(scores: Tensor, rows: Tensor) -> Tensor:
    """Return the cross-entropy of scores (..., L, V) and labels (..., L), summed over L and averaged over rows."""
    return summed_cross_entropy(scores, rows) / (rows.numel() / rows.shape[-1])


def cross_entropy_gradient(output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy and its gradient with respect to the output."""
    leaf = output.detach().requires_grad_()
    total = summed_cross_entropy(leaf, labels)
    (gradient,) = torch.autograd.grad(total, leaf)
    return total, gradient


def count_rows(labels: Tensor) -> int:
    """Return the number of labels: integer classes (...), or rows (..., O) of float numbers."""
    return labels.numel() // labels.shape[-1] if labels.is_floating_point() else labels.numel()


def numbers(estimate: Tensor, labels: Tensor | None) -> Tensor:
    """Return the labels (..., O) of an estimate (..., O). Raise ValueError if they are None or of another shape."""
    if labels is None:
        raise ValueError("a squared error needs the labels of its step")
    if labels.shape != estimate.shape:
        raise ValueError(f"labels {tuple(labels.shape)} do not match an estimate of shape {tuple(estimate.shape)}")
    return labels
