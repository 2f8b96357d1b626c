"""A recurrent layer whose past is carried exactly: what its weights did to its state, window after window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from dni.errors import UsageError
from dni.named_tensors import Value, batch_of, floating, like, named
from dni.recurrent import Recurrent
from dni.stages.element_wise import by_unit, refuse_mixing, refuse_untraceable, slopes_of
from dni.stages.graph import gradient_of
from dni.types import State


class Call(NamedTuple):
    """One call of a traced part in a window."""

    output: GradientEdge  #: of its pre-activations; unlike the tensor, it stays when they are changed in place
    shape: torch.Size  #: of these: (B, T, R) or (B, R), R a multiple of H
    input: Tensor | None  #: (B, T, D) or (B, D); None: a parameter of each unit


class TracedLayer:
    """An element-wise recurrent layer in one window after the other, cut from the layers below it.

    For each traced weight W, (R, D), it carries the trace e = dh/dW, (B, m, R, D), of the m tensors h of its state.
    Row r of W acts on unit r mod H alone. A window with pre-activations a_t = W x_t changes it to

        e' = (dh'/dh) e + sum_t (dh'/da_t) x_t

    where h' is the state after the window. Both derivatives come from autograd, by one backward pass for each tensor of
    the state. Biases and parameters of units have traces (B, m, R). A trace has the element type of its weight.

    Args:
        name: of the layer in its chain.
        layer: it names its traced parts (`Recurrent.traced`). Raises UsageError if it names none.
    """

    def __init__(self, name: str, layer: Recurrent) -> None:
        refuse_untraceable(name, layer)
        self.name, self.layer = name, layer
        keys = {part: key for key, part in layer.named_modules(prefix=name)}
        trained = [part for part in layer.traced() if any(weight.requires_grad for weight in part.parameters())]
        self.parts = {keys[part]: part for part in trained}
        self.weights = {
            f"{key}.{own}": weight
            for key, part in self.parts.items()
            for own, weight in part.named_parameters()
            if weight.requires_grad
        }
        traced = {id(weight) for weight in self.weights.values()}
        self.untraced = [p for p in layer.parameters() if p.requires_grad and id(p) not in traced]
        self.units = layer.initial_state(1)[0].numel()  #: H
        self.traces: dict[str, Tensor] = {}  #: by the name of the weight in the chain; empty: there is no past
        self._below: list[tuple[Tensor, Tensor]] = []  # ends of the graph below, and the leaves in their place
        self._leaving: State = ()
        self._calls: dict[str, list[Call]] = {}
        self._checked = False

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Cut the graph in front of the layer while a window runs, and keep what `backward` and `carry` need."""
        self._calls = {key: [] for key in self.parts}
        with ExitStack() as hooks:
            hooks.callback(self.layer.register_forward_pre_hook(self._enter).remove)
            hooks.callback(self.layer.register_forward_hook(self._leave).remove)
            for key, part in self.parts.items():
                hooks.callback(part.register_forward_hook(partial(self._called, key)).remove)
            yield

    def backward(
        self, ends: list[Tensor], gradients: list[Tensor], entering: State, future: State | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Go back through the layer, and return the ends of the graph below it with their gradients.

        `ends` lie above the layer, below the next recurrent one. Their gradients reach all weights, and through
        dL/d`entering` the past of the traced ones. `future`, the gradient of the leaving state, reaches the input, the
        entering state and the weights without traces: to the others the traces will bring it.
        """
        if ends:
            torch.autograd.backward(ends, gradients, retain_graph=True)
            self._credit_past(entering)
        if future is not None:
            inputs = [*(leaf for _, leaf in self._below), *entering, *self.untraced]
            gradients = [g.to(end.dtype) for g, end in zip(future, self._leaving, strict=True)]
            torch.autograd.backward(self._leaving, gradients, inputs=inputs, retain_graph=True)
        reached = [(end, leaf.grad) for end, leaf in self._below if leaf.grad is not None]
        return [end for end, _ in reached], [gradient for _, gradient in reached]

    def carry(self, entering: State) -> None:
        """Move the traces to the end of the window, and forget its graph.

        Rows that were reset do not depend on `entering`, so nothing of their past remains.
        """
        called = {key for key, each in self._calls.items() if each}
        if missing := {name.rpartition(".")[0] for name in self.weights} - called:
            raise UsageError(f"layer {self.name!r} has not called its traced part {min(missing)}: call it in forward")
        calls = [call for each in self._calls.values() for call in each]
        sources: list[Tensor | GradientEdge] = [*entering, *(call.output for call in calls)]
        shapes = [*(s.shape for s in entering), *(call.shape for call in calls)]
        found = [slopes_of(end.sum(), sources, shapes) for end in self._leaving]
        if not self._checked:
            refuse_mixing(self.name, self.layer, found, sources, shapes, self._leaving)
            self._checked = True
        m = len(entering)
        decays = torch.stack([torch.stack([by_unit(s) for s in slopes[:m]], dim=1) for slopes in found], dim=1)
        window = self._of_window([slopes[m:] for slopes in found])
        self.traces = {name: _carried(decays, self.traces.get(name), window[name]) for name in self.weights}
        self._below, self._leaving, self._calls = [], (), {}

    def _credit_past(self, entering: State) -> None:
        """Add sum_b dL/dh_b e_b to the gradients of the traced weights, with h the entering state."""
        credit = torch.stack([by_unit(gradient_of(s)) for s in entering], dim=1)  # (B, m, H)
        for name, trace in self.traces.items():
            rows = _tiled(credit, trace.shape[2]).to(trace.dtype)
            gained = torch.einsum("bmr,bmr...->r...", rows, trace)
            weight = self.weights[name]
            weight.grad = gained if weight.grad is None else weight.grad + gained

    def _of_window(self, found: list[list[Tensor]]) -> dict[str, Tensor]:
        """Return what the window itself adds to every trace; `found`: for each tensor of the state, the derivatives by
        every call."""
        left, added = zip(*found, strict=True), dict[str, Tensor]()  # call by call
        for key, calls in self._calls.items():
            # (B, T, m R): one product makes the traces of all tensors of the state
            slopes = _joined([_in_time(torch.cat(next(left), dim=-1)) for _ in calls])
            for name, weight in self.parts[key].named_parameters():
                if f"{key}.{name}" not in self.weights:
                    continue
                c = slopes.to(weight.dtype)
                if weight.dim() > 1:
                    inputs = _joined([_in_time(call.input) for call in calls if call.input is not None])
                    trace = torch.bmm(c.transpose(1, 2), inputs.to(weight.dtype))
                else:
                    trace = c.sum(1)
                added[f"{key}.{name}"] = trace.view(len(trace), len(found), -1, *trace.shape[2:])
        return added

    def _enter(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put leaves in the place of the layer's input. Drop traces of a batch of another size."""
        value, *rest = args
        below = {name: tensor for name, tensor in floating(value).items() if tensor.requires_grad}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in below.items()}
        self._below = [(tensor, leaves[name]) for name, tensor in below.items()]
        if any(len(trace) != batch_of(value) for trace in self.traces.values()):
            self.traces = {}
        # clones: the layer may modify its input in place, which a leaf does not allow
        entered = {name: leaves[name].clone() if name in leaves else tensor for name, tensor in named(value).items()}
        return like(entered, value), *rest

    def _leave(self, layer: nn.Module, args: tuple[Any, ...], result: tuple[Value, State]) -> None:
        self._leaving = tuple(result[1])

    def _called(self, key: str, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if output.shape[-1] % self.units:
            raise UsageError(
                f"layer {self.name!r}: its traced part {key} returns {output.shape[-1]} numbers for {self.units} "
                "units: return one for each unit, or a multiple"
            )
        input = args[0].detach() if isinstance(args[0], Tensor) else None
        self._calls[key].append(Call(get_gradient_edge(output), output.shape, input))


def _carried(decays: Tensor, past: Tensor | None, window: Tensor) -> Tensor:
    """Return the trace after a window: its own part, (B, m, R) or (B, m, R, D), with the decayed past added in place.

    `decays` is (B, m, m, H): of tensor i of the state after the window by tensor j before it.
    """
    if past is None:
        return window
    rows = _tiled(decays, window.shape[2]).to(window.dtype)
    rows = rows.unsqueeze(-1) if window.dim() == rows.dim() else rows
    for i, later in enumerate(window.unbind(1)):
        for j, earlier in enumerate(past.unbind(1)):
            later.addcmul_(rows[:, i, j], earlier)
    return window


def _tiled(units: Tensor, rows: int) -> Tensor:
    """Return (..., H) as (..., R): what belongs to every row, from what belongs to its unit."""
    times = rows // units.shape[-1]
    return units if times == 1 else torch.cat([units] * times, dim=-1)


def _joined(parts: list[Tensor]) -> Tensor:
    """Return the calls of a window one after another in time."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _in_time(tensor: Tensor) -> Tensor:
    """Return (B, R) as (B, 1, R), and (B, T, R) unchanged."""
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor
