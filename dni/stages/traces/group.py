"""The traces of those parts of a recurrent layer that get the same input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from dni.recurrent import Recurrent, UnitParameter

Part = nn.Linear | UnitParameter

_LARGE = 2**14  #: from so many traces of one example on, a sum without intermediate products is faster on a CPU


class Columns(NamedTuple):
    """The place of one part in the traces of its group."""

    part: Part
    start: int
    end: int
    complex_pairs: bool  #: the part returns real parts, then imaginary parts, of as many complex numbers

    def weights(self) -> dict[str, nn.Parameter]:
        """Return the trained weights of the part, by their names in it."""
        return {name: weight for name, weight in self.part.named_parameters() if weight.requires_grad}


class TraceGroup:
    """The traces e = dh/dW of parts with one input x_t, in a single tensor (B, D + 1, m, C).

    m is the number of tensors of the state, C how many numbers the parts return together. The last of the D + 1 rows
    is there if biases are trained: its input is 1. A `UnitParameter` has this row alone. Of a state that is one complex
    number, traces are complex and m is 1. Those of a drive's imaginary part would be i times those of its real part,
    and have no columns.

    Args:
        parts: by their keys in the chain; all linear with D inputs, or none of them.
        sizes: the number of columns of each part.
        tensors: m.
        dtype: element type of the traces.
    """

    def __init__(self, parts: Mapping[str, Part], sizes: Mapping[str, int], tensors: int, dtype: torch.dtype) -> None:
        self.columns: dict[str, Columns] = {}
        self.width = 0
        for key, part in parts.items():
            start, self.width = self.width, self.width + sizes[key]
            self.columns[key] = Columns(part, start, self.width, numbers_of(part) > sizes[key] and dtype.is_complex)
        self.rows = next((part.in_features for part in parts.values() if isinstance(part, nn.Linear)), 0)  #: D
        self.ones = any({*each.weights()} - {"weight"} for each in self.columns.values())
        self.tensors, self.dtype = tensors, dtype
        self.traces: Tensor | None = None  #: None: there is no past

    def keep(self, batch: int) -> None:
        """Drop the traces of a batch of another size."""
        if self.traces is not None and len(self.traces) != batch:
            self.traces = None

    def fade(self, factor: float) -> None:
        """Multiply the traces by a factor."""
        if self.traces is not None:
            self.traces *= factor

    def credit(self, gradient: Tensor) -> None:
        """Add sum_b (dL/dh)_b e_b to the gradients of the weights. `gradient` is (B, number of tensors in h, H)."""
        if self.traces is None:
            return
        if self.dtype.is_complex:
            gradient = torch.complex(gradient[:, :1], -gradient[:, 1:])
        gained = _summed_products(self.traces, self._tiled(gradient).unsqueeze(1)).conj()
        for each in self.columns.values():
            own = gained[:, each.start : each.end]
            if own.is_complex():
                own = torch.cat([own.real, own.imag], dim=1) if each.complex_pairs else own.real
            for name, weight in each.weights().items():
                _add(weight, own[: self.rows].t() if name == "weight" else own[-1])

    def carry(self, decay: Tensor, slopes: Sequence[Tensor], inputs: Tensor) -> None:
        """Move the traces to the end of a window: e' = (dh'/dh) e + sum_t (dh'/da_t) x_t.

        Args:
            decay: dh'/dh, (B, m, m, H).
            slopes: dh'/da_t of every part, (B, T, m, R); of one row, if it is the same in all.
            inputs: x_t, (B, T, D); D is 0 for parameters of units.
        """
        batch, steps = inputs.shape[:2]
        each = [slope.expand(batch, -1, -1, -1).to(self.dtype) for slope in slopes]
        joined = each[0] if len(each) == 1 else torch.cat(each, dim=-1)
        columns = _real(joined).flatten(2)
        x = inputs.to(columns.dtype)
        x = torch.cat([x, x.new_ones(batch, steps, 1)], dim=2) if self.ones else x
        if self.traces is not None and self.tensors == 1:
            self.traces *= self._tiled(decay)
            _real(self.traces).flatten(2).baddbmm_(x.transpose(1, 2), columns)
            return
        window = torch.bmm(x.transpose(1, 2), columns).view(batch, -1, *_real(joined).shape[2:])
        window = torch.view_as_complex(window) if joined.is_complex() else window
        if self.traces is not None:
            rows = self._tiled(decay).unsqueeze(1)
            for i, later in enumerate(window.unbind(2)):
                for j, earlier in enumerate(self.traces.unbind(2)):
                    later.addcmul_(rows[:, :, i, j], earlier)
        self.traces = window

    def named(self) -> dict[str, Tensor]:
        """Return the traces by the names of their weights: (B, m, R, D) of a matrix (R, D), (B, m, R) of a vector."""
        found: dict[str, Tensor] = {}
        for key, each in self.columns.items() if self.traces is not None else ():
            assert self.traces is not None
            own = self.traces[..., each.start : each.end]
            if own.is_complex():
                own = torch.cat([own.real, own.imag], dim=2)
                turned = torch.stack([-own[:, :, 1], own[:, :, 0]], dim=2)
                own = torch.cat([own, turned], dim=3) if each.complex_pairs else own
            own = own.permute(0, 2, 3, 1)
            for name in each.weights():
                trace = own[..., : self.rows] if name == "weight" else own[..., -1]
                found[f"{key}.{name}"] = trace.clone(memory_format=torch.contiguous_format)
        return found

    def load(self, saved: Mapping[str, Tensor], device: torch.device) -> None:
        """Take the result of `named`; traces that are missing in it become zero."""
        self.traces = None
        for key, each in self.columns.items():
            for name in each.weights():
                if f"{key}.{name}" in saved:
                    self._place(each, name, saved[f"{key}.{name}"].to(device))

    def _place(self, columns: Columns, name: str, trace: Tensor) -> None:
        """Write the traces of one weight, (B, m, R, D) or (B, m, R)."""
        if self.traces is None:
            shape = (len(trace), self.rows + self.ones, self.tensors, self.width)
            self.traces = trace.new_zeros(shape, dtype=self.dtype)
        trace = trace[:, :, : columns.end - columns.start]
        trace = torch.complex(*trace.unbind(1)).unsqueeze(1) if self.dtype.is_complex else trace
        own = self.traces[..., columns.start : columns.end]
        if name == "weight":
            own[:, : self.rows] = trace.permute(0, 3, 1, 2)
        else:
            own[:, -1] = trace

    def _tiled(self, units: Tensor) -> Tensor:
        """Return (..., H) as (..., C): what belongs to every column, from what belongs to its unit."""
        times = self.width // units.shape[-1]
        return (units if times == 1 else torch.cat([units] * times, dim=-1)).to(self.dtype)


def grouped(layer: Recurrent, parts: Mapping[str, Part]) -> tuple[list[TraceGroup], bool]:
    """Return the groups of a layer's traced parts, and whether the layer has a closed form of its derivatives.

    With a closed form all linear parts have one input, and so have all parameters of units; else each part is alone.
    """
    state, sizes = layer.initial_state(1), {key: numbers_of(part) for key, part in parts.items()}
    ones = {key: state[0].new_zeros(1, 1, sizes[key]) for key in parts}
    with torch.no_grad():  # a window of one step, for the shapes
        form = layer.slopes([z if isinstance(parts[key], nn.Linear) else z[0] for key, z in ones.items()], state)
    tensors, dtype = len(state), next(layer.parameters()).dtype
    if form is not None:
        sizes = {key: each.shape[-1] for key, each in zip(parts, form.parts, strict=True)}
        tensors, dtype = (1, dtype.to_complex()) if form.decay.is_complex() else (tensors, dtype)
    trained = {key: part for key, part in parts.items() if any(p.requires_grad for p in part.parameters())}
    together = [{key: part} for key, part in trained.items()]
    if form is not None:
        by_input = [{k: part for k, part in trained.items() if isinstance(part, kind)} for kind in get_args(Part)]
        together = [each for each in by_input if each]
    return [TraceGroup(each, sizes, tensors, dtype) for each in together], form is not None


def numbers_of(part: Part) -> int:
    """Return R, how many numbers a part returns at a step."""
    return part.out_features if isinstance(part, nn.Linear) else part.values.numel()


def _summed_products(traces: Tensor, rows: Tensor) -> Tensor:
    """Return sum_bm of traces (B, D, m, C) times rows (B, 1, m, C), as (D, C). einsum would loop over the columns."""
    if traces.device.type != "cpu" or traces[0].numel() < _LARGE:
        return (traces * rows).sum((0, 2))
    total = torch.zeros_like(traces[0])
    for trace, row in zip(traces, rows, strict=True):
        total.addcmul_(trace, row)
    return total.sum(1)


def _real(tensor: Tensor) -> Tensor:
    """Return a complex tensor (..., C) as (..., C, 2), and a real one unchanged."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _add(weight: nn.Parameter, gained: Tensor) -> None:
    if weight.grad is None:
        weight.grad = gained.contiguous()
    else:
        weight.grad += gained
