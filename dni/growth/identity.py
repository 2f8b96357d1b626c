"""Layers that begin as the identity: a network computes the same with them as without (Chen et al. 2016, Net2Net,
arXiv 1511.05641)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from dni.errors import ConfigError
from dni.recurrent import Recurrent

#: Layers without weights that leave values as they are: a relu those of a relu before it, dropout all in evaluation.
KEEPING = (nn.Identity, nn.ReLU, _DropoutNd)


@runtime_checkable
class BeginsAsIdentity(Protocol):
    """A layer, of type `nn.Module`, that a trained network can be given."""

    def make_identity(self) -> None:
        """Set the weights so that the output is the input, in training (without dropout) and in evaluation.

        Let the weights have gradients: zero the last projection of a residual branch, and leave the others.
        """


@torch.no_grad()
def make_identity(layer: nn.Module, name: str) -> None:
    """Make a layer the identity. `name` is for messages.

    A layer says itself how (`BeginsAsIdentity`). An `nn.Linear` of as many outputs as inputs gets the unit matrix, and
    of an `nn.Sequential` every layer is made the identity. Raises ConfigError for any other layer with weights.
    """
    if isinstance(layer, BeginsAsIdentity):
        layer.make_identity()
    elif isinstance(layer, nn.Sequential):
        for child, inner in layer.named_children():
            make_identity(inner, f"{name}.{child}")
    elif isinstance(layer, nn.Linear) and layer.in_features == layer.out_features:
        nn.init.eye_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif not isinstance(layer, KEEPING):
        raise ConfigError(f"{name} ({type(layer).__name__}) cannot begin as the identity: {_reason(layer)}")


def _reason(layer: nn.Module) -> str:
    if isinstance(layer, Recurrent | nn.RNNBase):
        return (
            "a recurrent layer without a skip connection returns its state, not its input: grow a model whose layers "
            "add to their input, such as model=residual or model=transformer"
        )
    if isinstance(layer, _BatchNorm):
        return (
            "batch norm changes every batch to one of mean 0 and variance 1: grow a model whose layers add to their "
            "input, such as model=resnet"
        )
    if isinstance(layer, nn.Linear):
        return f"it maps {layer.in_features} numbers to {layer.out_features}: add it between layers of one size"
    return (
        "its class has no make_identity(): write one that sets its weights so that it returns its input, such as zeros "
        "in the last projection of a residual branch"
    )
