"""State carried from window to window: chains of layers, resets per example, states as one matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.named_tensors import Value, is_value
from dni.types import State


class Recurrent(nn.Module):
    """A layer that carries state: subclass it, or use the layers in `dni.models`.

    `forward(x, state)` takes x (B, T, D) and a `State`, and returns the output and the state after the window.
    """

    def initial_state(self, batch: int) -> State:
        """The state at the start of a sequence: zeros, on the layer's device, B in dimension -2."""
        raise NotImplementedError


class Chain(nn.Sequential):
    """Layers in a row, some of them `Recurrent`; their states lie one after another in a single tuple.

    A layer takes what the layer before it returns: one tensor, or a dict of named tensors. Raises UsageError for a
    layer that returns something else.
    """

    def initial_state(self, batch: int) -> State:
        """The concatenated initial states of the recurrent layers; empty if there are none."""
        return tuple(s for layer in self if isinstance(layer, Recurrent) for s in layer.initial_state(batch))

    def forward(self, x: Value, state: State = ()) -> tuple[Value, State]:
        """Run x through the layers; returns (output, state after the window)."""
        left, after = state, ()
        for layer in self:
            if isinstance(layer, Recurrent):
                size = len(layer.initial_state(1))
                answer = layer(x, left[:size])
                if not (isinstance(answer, tuple) and len(answer) == 2 and len(answer[1]) == size):
                    raise self._wrong(layer, f"must return (output, state), a state of {size} tensors")
                x, new = answer
                left, after = left[size:], after + tuple(new)
            else:
                x = layer(x)
            if not is_value(x):
                raise self._wrong(layer, _instead_of(layer, x))
        return x, after

    def _wrong(self, layer: nn.Module, what: str) -> UsageError:
        name = next(key for key, one in self._modules.items() if one is layer)
        return UsageError(f"layer {name!r} ({type(layer).__name__}) {what}")


def _instead_of(layer: nn.Module, answer: object) -> str:
    """What is wrong with a layer that returns something else than a tensor, and what to write."""
    known = {nn.LSTM: "dni.models.LSTM", nn.GRU: "dni.models.GRU"}.get(type(layer))
    other = "a dni.Recurrent around it" if isinstance(layer, nn.RNNBase) else "a module around it that returns one"
    carries = ", which carries its state from window to window" if isinstance(layer, nn.RNNBase) else ""
    wanted = f"must return one tensor, or a dict of named ones: write {known or other}{carries}"
    return f"returns a {type(answer).__name__}, and {wanted}"


def as_chain(module: nn.Module) -> Chain:
    """The module as a `Chain`; an `nn.Sequential` keeps the names of its layers."""
    if isinstance(module, Chain):
        return module
    if isinstance(module, nn.Sequential):
        chain = Chain()
        for name, layer in module.named_children():
            chain.add_module(name, layer)
        return chain
    return Chain(module)


def reset_streams(state: State, reset: Tensor | None) -> State:
    """Zero the streams whose sequence starts with this window.

    `reset` is a (B,) bool tensor, or None for none. The gradient of a zeroed stream is zero as well: that is the time
    cut's target at the end of a sequence.
    """
    if reset is None or not state:
        return state
    return tuple(s.masked_fill(reset.unsqueeze(-1), 0.0) for s in state)


def pack(state: State) -> Tensor:
    """All tensors of a state side by side: (..., B, D_i) each -> (B, F). A predictor sees every part of it."""
    return torch.cat([s.movedim(-2, 0).flatten(1) for s in state], dim=1)


def unpack(flat: Tensor, like: State) -> State:
    """The inverse of `pack`: (B, F) -> tensors of the shapes in `like`."""
    parts, start = [], 0
    for s in like:
        moved = s.movedim(-2, 0)
        size = moved[0].numel()
        parts.append(flat[:, start : start + size].view(moved.shape).movedim(0, -2))
        start += size
    if start != flat.shape[1]:
        raise UsageError(f"a packed state of {flat.shape[1]} numbers a row, where {start} belong to this stage's state")
    return tuple(parts)
