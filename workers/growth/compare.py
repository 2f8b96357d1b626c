"""Whether a grown model computes what the model before computed, on the run's own data."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from dni.data.base import Data
from dni.data.window import Window
from dni.errors import ConfigError
from dni.growth import Insertion
from dni.named_tensors import Value, batch_of, named
from dni.recurrent import Chain
from dni.rng import remove_dropout
from dni.types import State

#: Largest difference, as a share of the largest value if that is above 1.
WITHIN = 1e-6

#: Windows that outputs are compared on, one after another.
WINDOWS = 2


@torch.no_grad()
def refuse_change(before: Sequence[Chain], grown: Sequence[Chain], found: Insertion, data: Data) -> float:
    """Return the largest difference of the outputs on some windows, in evaluation mode, with carried state.

    Raises ConfigError if it is not within `WITHIN`, or if new layers change their input in evaluation or in training
    (without dropout).
    """
    windows = _windows(data)
    for after, names in found.added.items():
        _refuse_other_values(grown, names, after, windows[0])
    outputs = [_outputs(model, windows) for model in (before, grown)]
    worst = max(map(_difference, *outputs))
    if not worst <= WITHIN:
        raise ConfigError(f"the outputs of the grown model differ by {worst:.2g}: its new layers change their input")
    return worst


def _windows(data: Data) -> list[Window]:
    source = data.valid() if data.valid_windows else data.train
    return [source.next() for _ in range(WINDOWS)]


def _refuse_other_values(model: Sequence[Chain], names: Sequence[str], after: str, window: Window) -> None:
    layers = list(chain.from_iterable(part.named_children() for part in model))
    first = [name for name, _ in layers].index(names[0])
    earlier, new = Chain(OrderedDict(layers[:first])), copy.deepcopy(Chain(OrderedDict(layers[first:][: len(names)])))
    value, _ = earlier.eval()(window.inputs, earlier.initial_state(batch_of(window.inputs)))
    remove_dropout(new)
    for mode in ("evaluation", "training"):
        new.train(mode == "training")
        given, _ = new(value, new.initial_state(batch_of(value)))
        worst = _difference(value, given)
        if not worst <= WITHIN:
            raise ConfigError(
                f"{', '.join(names)} after {after} would change the values there by {worst:.2g} in {mode}: name a "
                "layer whose output they leave as it is (a relu only what is 0 or more)"
            )


def _outputs(model: Sequence[Chain], windows: Sequence[Window]) -> list[Value]:
    states: dict[int, State] = {}
    found = []
    for window in windows:
        value: Value = window.inputs
        for index, part in enumerate(model):
            state = states.get(index) or part.initial_state(batch_of(value))
            value, states[index] = part.eval()(value, state)
        found.append(value)
    return found


def _difference(a: Value, b: Value) -> float:
    """Return the largest difference of two values, as a share of the largest number if that is above 1."""
    return max(_of_tensors(each, named(b)[name]) for name, each in named(a).items())


def _of_tensors(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    scale = a.double().abs().max().clamp(min=1.0)
    return float((a.double() - b.double()).abs().max() / scale)
