"""Recurrent state carried from window to window: chains of layers, resets per stream, states packed into a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.named_tensors import Value, is_value
from dni.types import State


class Slopes(NamedTuple):
    """Derivatives of the state after a window of an element-wise layer, unit by unit.

    Real, for a state of one tensor. Complex, for a state of two that are the real and the imaginary part of one number
    h, with dh / d number: of a part that returns the two parts of complex numbers, the derivatives are by these.
    """

    decay: Tensor  #: (B, H) or (1, H), by the state before the window
    parts: tuple[Tensor, ...]  #: (B, T, R) or (1, T, R) for each traced part, by what it returned at step t; R is H,
    #: 2 H, ... or H complex ones. For a `UnitParameter`, T is 1


class Recurrent(nn.Module):
    """Base class of layers that carry state. `dni.models` has ready ones.

    `forward(x, state)` takes x (B, T, D) and a `State`, and returns the output and the state after the window.
    """

    def initial_state(self, batch: int) -> State:
        """Return the state at the start of a sequence: zeros on the layer's device, with B in dimension -2."""
        raise NotImplementedError

    def traced(self) -> tuple[nn.Module, ...]:
        """Return the parts whose weights `time=online` carries credit for; none, as here, if it cannot.

        Each is an `nn.Linear` or a `UnitParameter`, called in `forward`. The layer must be element-wise: all tensors of
        the state have H units, unit h of the state after a window depends on unit h of the state before it alone, and
        on the rows h, H + h, 2 H + h, ... of what these parts return. Parts whose output does not reach the state do
        not belong here.
        """
        return ()

    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes | None:
        """Return the derivatives that `time=online` needs, in closed form; None, as here, leaves them to autograd.

        `outputs` are what the parts in `traced` returned in the window, (B, T, R), and (B, H) of a `UnitParameter`;
        `state` is that before the window. Each part is called once, and all linear ones with the same input. The first
        window compares the result with autograd's.
        """
        return None


class UnitParameter(nn.Module):
    """A parameter with one number for each unit, such as a decay, in a form that `Recurrent.traced` can name."""

    def __init__(self, values: Tensor) -> None:
        """`values` (H,) are its first ones."""
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, batch: int) -> Tensor:
        """Return the numbers as (B, H)."""
        return self.values.expand(batch, -1)


class Chain(nn.Sequential):
    """An `nn.Sequential` whose layers may be `Recurrent`. Its state is the concatenation of the layers' states.

    A layer takes the output of the layer before it: one tensor, or a dict of named tensors. Raises UsageError if a
    layer returns anything else.
    """

    def initial_state(self, batch: int) -> State:
        """Return the concatenated initial states of the recurrent layers; empty if there are none."""
        return tuple(s for layer in self if isinstance(layer, Recurrent) for s in layer.initial_state(batch))

    def forward(self, x: Value, state: State = ()) -> tuple[Value, State]:
        """Run x through the layers and return (output, state after the window)."""
        left, after = state, ()
        for layer in self:
            if isinstance(layer, Recurrent):
                size = len(layer.initial_state(1))
                answer = layer(x, left[:size])
                if not (isinstance(answer, tuple) and len(answer) == 2 and len(answer[1]) == size):
                    raise self._wrong(layer, f"must return (output, state) with a state of {size} tensors")
                x, new = answer
                left, after = left[size:], after + tuple(new)
            else:
                x = layer(x)
            if not is_value(x):
                raise self._wrong(layer, _advice(layer, x))
        return x, after

    def _wrong(self, layer: nn.Module, problem: str) -> UsageError:
        name = next(key for key, one in self._modules.items() if one is layer)
        return UsageError(f"layer {name!r} ({type(layer).__name__}) {problem}")


def _advice(layer: nn.Module, answer: object) -> str:
    """Say what to write instead of a layer that does not return a tensor."""
    known = {nn.LSTM: "dni.models.LSTM", nn.GRU: "dni.models.GRU"}.get(type(layer))
    other = "a dni.Recurrent around it" if isinstance(layer, nn.RNNBase) else "a module around it that returns one"
    carries = ", which carries its state from window to window" if isinstance(layer, nn.RNNBase) else ""
    wanted = f"must return one tensor, or a dict of named ones: write {known or other}{carries}"
    return f"returns {_kind(answer)}, and {wanted}"


def _kind(answer: object) -> str:
    """Name the type of an answer that is no value."""
    if not isinstance(answer, dict):
        return f"a {type(answer).__name__}"
    if not answer:
        return "an empty dict"
    name, wrong = next((n, t) for n, t in answer.items() if not (isinstance(n, str) and isinstance(t, Tensor)))
    return f"a dict with a {type(wrong).__name__} named {name!r}"


def as_chain(module: nn.Module) -> Chain:
    """Return the module as a `Chain`. The layers of an `nn.Sequential` keep their names."""
    if isinstance(module, Chain):
        return module
    if isinstance(module, nn.Sequential):
        chain = Chain()
        for name, layer in module.named_children():
            chain.add_module(name, layer)
        return chain
    return Chain(module)


def reset_streams(state: State, reset: Tensor | None) -> State:
    """Zero the state of streams whose sequence starts with this window.

    `reset` is a (B,) bool tensor; None resets no stream. The gradient of a zeroed stream is zero as well, which is the
    target of the time cut at the end of a sequence.
    """
    if reset is None or not state:
        return state
    return tuple(s.masked_fill(reset.unsqueeze(-1), 0.0) for s in state)


def pack(state: State) -> Tensor:
    """Concatenate the tensors of a state: (..., B, D_i) each -> (B, F), the form that predictors see."""
    return torch.cat([s.movedim(-2, 0).flatten(1) for s in state], dim=1)


def unpack(flat: Tensor, like: State) -> State:
    """Invert `pack`: (B, F) -> tensors of the shapes in `like`. Raise UsageError if F does not fit."""
    parts, start = [], 0
    for s in like:
        moved = s.movedim(-2, 0)
        size = moved[0].numel()
        parts.append(flat[:, start : start + size].view(moved.shape).movedim(0, -2))
        start += size
    if start != flat.shape[1]:
        raise UsageError(f"the packed state has {flat.shape[1]} numbers a row, and this stage's state has {start}")
    return tuple(parts)
