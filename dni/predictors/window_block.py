"""Parts of a model as blocks of a head: any layer from a value to another of the same shape, within one window."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.recurrent import Recurrent
from dni.rng import remove_dropout


class WindowBlock(nn.Module):
    """A layer that carries state, within one window: (B, T, D) -> (B, T, D). Every window begins with a new state."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.layer.initial_state(len(x)))[0]  # type: ignore[no-any-return]


def within_window(layer: nn.Module) -> nn.Module:
    """Return the layer as a module from a value to a value, without state from earlier windows and without dropout."""
    remove_dropout(layer)
    return WindowBlock(layer) if isinstance(layer, Recurrent) else layer


def as_block(layer: nn.Module, value: Tensor) -> nn.Module | None:
    """Return the layer as a block that draws no random numbers; None: it is no block.

    A block has parameters, consists of further layers (so that a single linear layer or norm is none), and returns a
    tensor of the shape and type of its input. `value` is an input to try this with.
    """
    if next(layer.parameters(), None) is None or next(layer.children(), None) is None:
        return None
    block = within_window(layer)
    modes = [(part, part.training) for part in block.modules()]
    try:
        with torch.no_grad():
            found = block.eval()(value)
    except Exception:  # whatever a layer raises that takes other inputs
        return None
    finally:
        for part, mode in modes:
            part.training = mode
    return block if isinstance(found, Tensor) and (found.shape, found.dtype) == (value.shape, value.dtype) else None


def has_second_derivative(model: nn.Module, value: Tensor) -> bool:
    """Return whether the gradient of the model's output with respect to the value has a gradient in turn.

    Leaves gradients at the parameters.
    """
    leaf = value.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).pow(2).sum(), leaf, create_graph=True)
    try:
        torch.autograd.backward(gradient.pow(2).sum())
    except RuntimeError:  # torch's word for a function without one
        return False
    return True
