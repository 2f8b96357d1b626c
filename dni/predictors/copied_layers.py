"""A head of copies: later layers of the model, whose weights come from the stages that train them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dni.predictors.window_block import within_window


class CopiedLayers(nn.Module):
    """Scores of a value v by later layers f of the model, with averages w of their weights (Su et al. 2025, MAN++):

        h(v) = f(a v + b; w),    w <- m w + (1 - m) w_new  for every copy w_new that arrives (`average`).

    The scale a and the bias b, one number each for every feature or channel, make up for what the skipped layers would
    change; only these two are trained here. Copies have no dropout, and layers that carry state begin every window with
    their initial state. Until copies arrive, w is what the layers were built with, so that the gradient of an untrained
    head is not zero.

    Args:
        layers: the layers, in order, by the names that precede those of their weights in the model.
        shape: of a row of the value: (D,), or (C, H, W).
    """

    def __init__(self, layers: Mapping[str, nn.Module], shape: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (shape[0], *(1 for _ in shape[1:]))
        self.scale, self.bias = nn.Parameter(torch.ones(sizes)), nn.Parameter(torch.zeros(sizes))
        self.layers = nn.ModuleList(within_window(layer) for layer in layers.values())
        self.layers.requires_grad_(False)
        own = {id(parameter): name for name, parameter in self.layers.named_parameters(prefix="layers")}
        #: names of the copied weights here, by their names in the model
        self.places = {
            f"{layer}.{name}": own[id(parameter)]
            for layer, module in layers.items()
            for name, parameter in module.named_parameters()
        }

    def forward(self, value: Tensor) -> Tensor:
        """(B, T, D), (B, D) or (B, C, H, W) -> scores (B, T, V) or (B, V)."""
        x: Tensor = value * self.scale + self.bias
        for layer in self.layers:
            x = layer(x)
        return x

    @torch.no_grad()
    def average(self, weights: Mapping[str, Tensor], momentum: float) -> None:
        """Move the copies of these weights, by their names in the model, to `momentum` old + (1 - `momentum`) new.

        Weights of other layers are ignored.
        """
        for name in weights.keys() & self.places.keys():
            copied = self.get_parameter(self.places[name])
            copied.lerp_(weights[name].to(copied.device), 1 - momentum)
