"""Histograms of what the layers of a stage return and of the gradients of their weights, every few steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dni.named_tensors import floating
from dni.stages.base import Stage

Histogram = dict[str, Any]

#: The kind of records that hold them. They are shown, and not kept in `metrics.jsonl`.
KIND = "histograms"

#: Equal bins between the smallest and the largest number.
BINS = 64


class Histograms:
    """Watches a stage: sends one record for each due step, once the stage has updated its weights.

    The record has `activations` and `gradients`, by layer. Gradients are those of the window, before clipping.

    Args:
        stage: its `forward` and `update` are replaced by ones that look
        index: of the stage
        every: steps between two records
        sink: called with each record
    """

    def __init__(self, stage: Stage, index: int, every: int, sink: Callable[[dict[str, Any]], None]) -> None:
        self._stage, self._index, self._every, self._sink = stage, index, every, sink
        self._looking = False
        self._step: int | None = None  # whose record is not sent yet
        self._activations: dict[str, Histogram] = {}
        for name, layer in stage.module.named_children():
            layer.register_forward_hook(partial(self._look, name))
        self._forward, self._update = stage.forward, stage.update
        stage.forward, stage.update = self.forward, self.update  # type: ignore[method-assign]

    def forward(self, activation: Any, reset: Tensor | None = None, step: int = 0) -> Any:
        """Run the stage's forward pass, and look at it if the step is due."""
        self._looking = step % self._every == 0
        if self._looking:
            self._step, self._activations = step, {}
        try:
            return self._forward(activation, reset, step)
        finally:
            self._looking = False

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Send the record of a due step, with the gradients of the update, and update."""
        if self._step is not None:
            gradients = {name: found for name, layer in self._layers() if (found := _of_gradients(layer)) is not None}
            self._sink({
                "kind": KIND, "stage": self._index, "step": self._step, "activations": self._activations,
                "gradients": gradients,
            })  # fmt: skip
            self._step = None
        self._update(*args, **kwargs)

    def _layers(self) -> Sequence[tuple[str, nn.Module]]:
        return [*self._stage.module.named_children()]

    def _look(self, name: str, layer: nn.Module, given: Any, returned: Any) -> None:
        if self._looking and layer.training:
            output = returned[0] if isinstance(returned, tuple) else returned
            found = histogram([*floating(output).values()])
            if found is not None:
                self._activations[name] = found


@torch.no_grad()
def histogram(tensors: Sequence[Tensor]) -> Histogram | None:
    """Return the histogram of all numbers of some tensors; None if there are none, or not all are finite."""
    if not tensors:
        return None
    numbers = torch.cat([each.detach().flatten().float() for each in tensors])
    if not numbers.numel() or not torch.isfinite(numbers).all():
        return None
    least, most = numbers.min().item(), numbers.max().item()
    width = (most - least) or 1.0
    counts = torch.histc(numbers, BINS, least, least + width)
    return {
        "min": least, "max": most, "num": numbers.numel(),
        "sum": numbers.double().sum().item(), "sum_squares": numbers.double().square().sum().item(),
        "bucket_limits": [least + width * (k + 1) / BINS for k in range(BINS)], "bucket_counts": counts.int().tolist(),
    }  # fmt: skip


def _of_gradients(layer: nn.Module) -> Histogram | None:
    return histogram([parameter.grad for parameter in layer.parameters() if parameter.grad is not None])
