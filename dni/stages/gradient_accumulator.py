"""The summed parameter gradients of several windows, for one optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class GradientAccumulator:
    """Parameter gradients, by parameter name, summed over the windows since the last optimizer step."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    divisor: float = 0
    windows: int = 0

    @staticmethod
    def restored(device: torch.device, sums: dict[str, Tensor], divisor: float, windows: int) -> GradientAccumulator:
        """Return what `vars` of one gave, with copies of its sums on a device."""
        here = {name: total.to(device, copy=True) for name, total in sums.items()}
        return GradientAccumulator(here, divisor, windows)

    def add(self, module: nn.Module, divisor: float) -> None:
        """Add one window's gradients. The caller must not write to their tensors afterwards."""
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                earlier = self.sums.get(name)
                self.sums[name] = parameter.grad if earlier is None else earlier.add_(parameter.grad)
        self.divisor += divisor
        self.windows += 1

    def write_gradients(self, module: nn.Module) -> list[Tensor]:
        """Set the gradients of the module's parameters to the sums, and return the sums."""
        for name, parameter in module.named_parameters():
            parameter.grad = self.sums.get(name)
        return list(self.sums.values())
