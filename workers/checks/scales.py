"""Follow the scale of values and gradients through the layers: a layer that makes them explode is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.data.base import Data
from dni.named_tensors import Value, batch_of, floating, map_tensors
from dni.recurrent import Chain, Recurrent
from dni.rng import remove_dropout
from workers.build.own_code import as_config_error
from workers.checks.verdict import Verdict, first_windows, parts_of
from workers.config.settings import Config

#: Largest root mean square of a layer's output; for inputs whose own is above 1, as a multiple of that.
MOST_VALUES = 100.0

#: Largest ratio of the gradient's norm behind a layer to that behind any later one.
MOST_GRADIENTS = 1000.0


@dataclass(frozen=True)
class Scale:
    """What passes between a layer and the next one."""

    layer: str  #: name and class of the layer
    values: float  #: root mean square of its output
    gradient: float  #: norm of the loss's gradient by its output; nan if it has none


def check_scales(config: Config, data: Data) -> Verdict:
    """Run one batch forward and back at the first weights, in training mode without dropout.

    The scale of outputs must not grow to `MOST_VALUES`, nor the gradient by `MOST_GRADIENTS` on its way back. A fault
    names the layer that adds most to it. Raises ConfigError for a model that cannot run.
    """
    window, labels = first_windows(config, data)
    with as_config_error(f"model={config.model.name} cannot be checked"):
        scales = _scales(config, window.inputs, labels)
    unit = max(1.0, _root_mean_square(window.inputs))
    fault = _of_values(scales, unit) or _of_gradients(scales)
    if fault:
        return Verdict(False, fault)
    largest = max(scale.values for scale in scales)
    _, growth = _growth([scale.gradient for scale in scales])
    return Verdict(
        True, f"{len(scales)} layers: outputs are at most {largest:.2g}, gradients grow at most {growth:.2g}-fold"
    )


def _scales(config: Config, value: Value, labels: Tensor) -> list[Scale]:
    names, values, ends = list[str](), list[float](), list[dict[str, Tensor]]()
    for chain in parts_of(config):
        remove_dropout(chain.train())
        for name, layer in chain.named_children():
            value = _output(layer, map_tensors(Tensor.clone, value))  # a layer may work in place
            names.append(f"{name} ({type(layer).__name__})")
            values.append(_root_mean_square(value))
            ends.append({key: each for key, each in floating(value).items() if each.requires_grad})
    loss = config.loss.summed(value, labels) / max(1, config.loss.count(labels))
    flat = [each for end in ends for each in end.values()]
    found = iter(torch.autograd.grad(loss, flat, allow_unused=True, materialize_grads=True))
    norms = [math.hypot(*(next(found).double().norm().item() for _ in end)) if end else math.nan for end in ends]
    return [Scale(*each) for each in zip(names, values, norms, strict=True)]


def _output(layer: torch.nn.Module, value: Value) -> Value:
    if isinstance(layer, Recurrent):
        return layer(value, layer.initial_state(batch_of(value)))[0]
    return Chain(layer)(value)[0]  # refuses what is no value, as in training


def _root_mean_square(value: Value) -> float:
    """Return that of all numbers of a value; 0 for symbols."""
    tensors = [each.detach().double() for each in floating(value).values()]
    count = sum(each.numel() for each in tensors)
    return math.sqrt(sum(each.square().sum().item() for each in tensors) / count) if count else 0.0


def _of_values(scales: Sequence[Scale], unit: float) -> str | None:
    for at, scale in enumerate(scales):
        if not math.isfinite(scale.values):
            return f"the output of {scale.layer} is not finite at the first step: {_advice(scale.layer)}"
        if scale.values <= MOST_VALUES * unit:
            continue
        before = [unit, *(each.values for each in scales[:at])]
        gains = [_ratio(each.values, was) for each, was in zip(scales[: at + 1], before, strict=True)]
        worst = max(range(at + 1), key=gains.__getitem__)
        return (
            f"{scales[worst].layer} multiplies the scale of values by {gains[worst]:.2g}: behind {scale.layer} it is "
            f"{scale.values:.2g}, and should stay below {MOST_VALUES * unit:.3g}: {_advice(scales[worst].layer)}"
        )
    return None


def _of_gradients(scales: Sequence[Scale]) -> str | None:
    norms = [scale.gradient for scale in scales]
    at, growth = _growth(norms)
    if growth <= MOST_GRADIENTS:
        return None
    gains = {k: _ratio(norms[k - 1], norms[k]) for k in range(at + 1, len(norms)) if not math.isnan(norms[k - 1])}
    worst = max(gains, key=lambda k: gains[k])
    return (
        f"{scales[worst].layer} multiplies the norm of the gradient by {gains[worst]:.2g} on its way back: behind "
        f"{scales[at].layer} it is {growth:.2g} times that behind a later layer, and should stay below "
        f"{MOST_GRADIENTS:g} times: {_advice(scales[worst].layer)}"
    )


def _growth(norms: Sequence[float]) -> tuple[int, float]:
    """Return the largest ratio of a norm to a later one, and the place of the former."""
    least, found = math.inf, (len(norms) - 1, 1.0)
    for at in reversed(range(len(norms))):
        if math.isnan(norms[at]):
            continue
        found = max(found, (at, _ratio(norms[at], least)), key=lambda each: each[1])
        least = min(least, norms[at])
    return found


def _ratio(a: float, b: float) -> float:
    """Return a / b; 0 where nothing arrives: that is no explosion."""
    return a / b if b > 0 else 0.0


def _advice(layer: str) -> str:
    return f"lower the first weights of {layer.partition(' ')[0]} (model.init), or put a norm behind it"
