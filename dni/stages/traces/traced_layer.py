"""A recurrent layer whose past is carried exactly: what its weights did to its state, window after window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from dni.errors import UsageError
from dni.named_tensors import Value, batch_of, floating, like, named
from dni.recurrent import Recurrent
from dni.stages.graph import gradient_of
from dni.stages.traces.element_wise import refuse_mixing, refuse_untraceable, refuse_wrong_slopes, unlike_numbers
from dni.stages.traces.group import Part, grouped, numbers_of
from dni.stages.traces.slopes import Call, WindowSlopes, by_autograd, by_unit, in_closed_form, in_time, of_real_tensors
from dni.types import State


class TracedLayer:
    """An element-wise recurrent layer in one window after the other, cut from the layers below it.

    For each traced weight W, (R, D), it carries the trace e = dh/dW, (B, m, R, D), of the m tensors h of its state.
    Row r of W acts on unit r mod H alone. A window with pre-activations a_t = W x_t changes it to

        e' = (dh'/dh) e + sum_t (dh'/da_t) x_t

    where h' is the state after the window. Both derivatives come from `Recurrent.slopes`, or else from autograd, by one
    backward pass for each tensor of the state. Biases and parameters of units have traces (B, m, R). A trace has the
    element type of its weight.

    Args:
        name: of the layer in its chain.
        layer: it names its traced parts (`Recurrent.traced`). Raises UsageError if it names none.
    """

    def __init__(self, name: str, layer: Recurrent) -> None:
        refuse_untraceable(name, layer)
        self.name, self.layer = name, layer
        keys = {part: key for key, part in layer.named_modules(prefix=name)}
        self.parts: dict[str, Part] = {keys[part]: part for part in layer.traced()}  # type: ignore[misc]  # as checked
        self.groups, self.closed = grouped(layer, self.parts)
        traced = {id(weight) for part in self.parts.values() for weight in part.parameters()}
        self.untraced = [p for p in layer.parameters() if p.requires_grad and id(p) not in traced]
        self.units = layer.initial_state(1)[0].numel()  #: H
        self._below: list[tuple[Tensor, Tensor]] = []  # ends of the graph below, and the leaves in their place
        self._entered: State = ()
        self._leaving: State = ()
        self._reset: Tensor | None = None
        self._precision: AbstractContextManager[Any] = (
            nullcontext()
        )  # of the window: its rounding is that of the slopes
        self._calls: dict[str, list[Call]] = {}
        self._checked = False

    @property
    def traces(self) -> dict[str, Tensor]:
        """The traces by the names of the weights in the chain; empty: there is no past."""
        return {name: trace for group in self.groups for name, trace in group.named().items()}

    def load(self, saved: Mapping[str, Tensor], device: torch.device) -> None:
        """Take those traces of a checkpoint that belong to the layer."""
        for group in self.groups:
            group.load(saved, device)

    def fade(self, factor: float) -> None:
        """Multiply all traces by a factor."""
        for group in self.groups:
            group.fade(factor)

    @contextmanager
    def recording(self, reset: Tensor | None) -> Iterator[None]:
        """Cut the graph in front of the layer while a window runs, and keep what `backward` and `carry` need.

        `reset` (B,) bool marks the rows whose state was zeroed before; None: no row.
        """
        self._calls, self._reset = {key: [] for key in self.parts}, reset
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
        again = bool(self.groups) and not (self.closed and self._checked)  # `carry` goes back, too
        if ends:
            torch.autograd.backward(ends, gradients, retain_graph=again or future is not None)
            credit = torch.stack([by_unit(gradient_of(s)) for s in entering], dim=1)  # (B, m, H)
            for group in self.groups:
                group.credit(credit)
        if future is not None:
            inputs = [*(leaf for _, leaf in self._below), *entering, *self.untraced]
            gradients = [g.to(end.dtype) for g, end in zip(future, self._leaving, strict=True)]
            torch.autograd.backward(self._leaving, gradients, inputs=inputs, retain_graph=again)
        reached = [(end, leaf.grad) for end, leaf in self._below if leaf.grad is not None]
        return [end for end, _ in reached], [gradient for _, gradient in reached]

    def carry(self, entering: State) -> None:
        """Move the traces to the end of the window, and forget its graph.

        Rows that were reset do not depend on `entering`, so nothing of their past remains.
        """
        if missing := [key for key, calls in self._calls.items() if not calls]:
            raise UsageError(f"layer {self.name!r} has not called its traced part {min(missing)}: call it in forward")
        if self.groups:
            slopes = self._slopes(entering)
            for group in self.groups:
                group.carry(slopes.decay, [slopes.parts[key] for key in group.columns], self._inputs([*group.columns]))
        self._below, self._entered, self._leaving, self._reset, self._calls = [], (), (), None, {}

    def _slopes(self, entering: State) -> WindowSlopes:
        with self._precision:
            closed = in_closed_form(self.layer, self._entered, self._reset, self._calls) if self.closed else None
        if self._checked and closed is not None:
            return closed
        found = by_autograd(entering, self._leaving, self._calls)
        if not self._checked:
            weighted = by_autograd(entering, self._leaving, self._calls, unlike_numbers(self.units))
            refuse_mixing(self.name, self.layer, found, weighted)
            if closed is not None:
                sizes = {key: numbers_of(part) for key, part in self.parts.items()}
                refuse_wrong_slopes(self.name, self.layer, of_real_tensors(closed, sizes), found)
            self._checked = True
        return found if closed is None else closed

    def _inputs(self, keys: list[str]) -> Tensor:
        """Return the input of some parts, (B, T, D), in all their calls; D is 0 for parameters of units."""
        calls = self._calls[keys[0]]
        if any(self._calls[key][0].input is not calls[0].input or len(self._calls[key]) > 1 for key in keys[1:]):
            raise UsageError(
                f"layer {self.name!r} has `slopes`, and calls {' and '.join(keys)} several times or with different "
                "inputs: call each once with the same input, or leave out `slopes`"
            )
        inputs = [in_time(call.output)[..., :0] if call.input is None else in_time(call.input) for call in calls]
        return inputs[0].detach() if len(inputs) == 1 else torch.cat(inputs, dim=1).detach()

    def _enter(self, layer: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Put leaves in the place of the layer's input. Drop traces of a batch of another size."""
        value, *rest = args
        below = {name: tensor for name, tensor in floating(value).items() if tensor.requires_grad}
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in below.items()}
        self._below = [(tensor, leaves[name]) for name, tensor in below.items()]
        self._entered = tuple(s.detach() for s in rest[0])
        for group in self.groups:
            group.keep(batch_of(value))
        # clones: the layer may modify its input in place, which a leaf does not allow
        entered = {name: leaves[name].clone() if name in leaves else tensor for name, tensor in named(value).items()}
        return like(entered, value), *rest

    def _leave(self, layer: nn.Module, args: tuple[Any, ...], result: tuple[Value, State]) -> None:
        self._leaving = tuple(result[1])
        kind = self._leaving[0].device.type
        self._precision = torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind))

    def _called(self, key: str, part: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if output.shape[-1] % self.units:
            raise UsageError(
                f"layer {self.name!r}: its traced part {key} returns {output.shape[-1]} numbers for {self.units} "
                "units: return one for each unit, or a multiple"
            )
        input = args[0] if isinstance(args[0], Tensor) else None
        edge = get_gradient_edge(output) if output.requires_grad else None
        self._calls[key].append(Call(output.detach(), edge, input))
