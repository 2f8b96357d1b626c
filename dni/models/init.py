"""Initialisation of weights other than torch's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from dni.errors import ConfigError


@torch.no_grad()
def initialise(model: nn.Module, scheme: str) -> None:
    """Draw new weights for all linear, convolutional, LSTM and GRU layers, and set their biases to zero.

        xavier: uniform within +-sqrt(6 / (fan in + fan out))    (Glorot & Bengio 2010)
        he:     normal with variance 2 / fan in                  (He et al. 2015)

    Each gate of a recurrent layer is drawn as a separate matrix. Embeddings and norms do not change. The weights depend
    only on torch's random state and the order of the layers. Raise ConfigError for another scheme.
    """
    draw: dict[str, Callable[[Tensor], Tensor]] = {
        "xavier": nn.init.xavier_uniform_,
        "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    }
    if scheme not in draw:
        raise ConfigError(f"no initialisation named {scheme!r}: use {', '.join(draw)}")
    for name, parameter in _of_maps(model):
        if name.startswith("bias"):
            nn.init.zeros_(parameter)
        else:
            draw[scheme](parameter)


def _of_maps(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield weights and biases with their names in their layer, gate by gate."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield from layer.named_parameters(recurse=False)
        elif isinstance(layer, nn.RNNBase):
            for name, stacked in layer.named_parameters(recurse=False):
                yield from ((name, gate) for gate in torch.split(stacked, layer.hidden_size))


def zero(layer: nn.Module) -> None:
    """Set all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
