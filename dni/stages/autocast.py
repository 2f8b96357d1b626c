"""Lower precision by autocast: matrix products in 16 bits, parameters and optimizer in 32."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from dni.named_tensors import Value, map_tensors, named
from dni.recurrent import Chain
from dni.types import State


class AutocastChain(Chain):
    """A chain that computes in `dtype` where autocast allows it, and sends its output in `dtype`.

    Args:
        chain: the layers.
        dtype: torch.bfloat16 or torch.float16.
        last: the output is the network's scores, which stay in 32 bits for the loss.
    """

    def __init__(self, chain: Chain, dtype: torch.dtype, *, last: bool) -> None:
        super().__init__(OrderedDict(chain.named_children()))
        self.dtype, self.last = dtype, last
        for layer in self.modules():
            if isinstance(layer, nn.LSTM):
                layer.forward = _where_allowed(layer, dtype)  # type: ignore[method-assign]

    def forward(self, x: Value, state: State = ()) -> tuple[Value, State]:
        """Run the layers; the state that is carried on keeps its element type."""
        device = next(iter(named(x).values())).device
        if device.type == "meta":  # has no autocast: the shapes are those of layers in 32 bits
            output, leaving = super().forward(_cast(x, torch.float32), state)
        else:
            with torch.autocast(device.type, self.dtype):
                output, leaving = super().forward(x, state)
        sent = torch.float32 if self.last else self.dtype
        kinds = [s.dtype for s in state]
        return _cast(output, sent), tuple(s.to(kind) for s, kind in zip(leaving, kinds, strict=True))


@cache
def _has_lstm(dtype: torch.dtype) -> bool:
    """Whether this CPU has an LSTM in `dtype`: oneDNN's needs AVX-512, and autocast does not ask."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), torch.autocast("cpu", dtype):
            nn.LSTM(1, 1, dtype=torch.float32)(torch.zeros(1, 1, 1))
    except RuntimeError:
        return False
    return True


def _where_allowed(layer: nn.LSTM, dtype: torch.dtype) -> Callable[..., Any]:
    """Return the forward pass of a layer, in 32 bits on a CPU that has no LSTM in `dtype`."""
    forward = layer.forward

    def run(x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Any:
        if x.device.type != "cpu" or _has_lstm(dtype):
            return forward(x, state)
        with torch.autocast("cpu", enabled=False):
            return forward(x.float(), state)

    return run


def _cast(value: Value, dtype: torch.dtype) -> Value:
    return map_tensors(lambda each: each.to(dtype) if each.is_floating_point() else each, value)


def autocast_calls(module: nn.Module, dtype: torch.dtype | None, *names: str) -> nn.Module:
    """Let the named methods of a module compute in `dtype` where autocast allows it; None changes nothing."""
    if dtype is not None:
        for name in names:
            setattr(module, name, _autocast(getattr(module, name), module, dtype))
    return module


def _autocast(call: Callable[..., Any], module: nn.Module, dtype: torch.dtype) -> Callable[..., Any]:
    def cast(*args: Any, **kwargs: Any) -> Any:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        with torch.autocast(device.type, dtype):
            return call(*args, **kwargs)

    return cast
