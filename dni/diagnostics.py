"""How good synthetic gradients are, against exact backpropagation with the same parameters. For analysis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dni.data.window import Window
from dni.interfaces.base import Interface
from dni.losses import cross_entropy_gradient
from dni.metrics import cosine
from dni.recurrent import Chain, pack, unpack
from dni.rng import without_dropout
from dni.types import State


@dataclass(frozen=True)
class Agreement:
    """Predicted gradients against the exact ones, one pair per cut or window of a sequence; nan: exact are all zero."""

    cosine: float  #: mean over the pairs whose exact gradient is not zero
    r2: float  #: 1 - squared error / squared norm of the exact gradients, over all pairs
    norm: float  #: norm of the predicted over that of the exact gradients, over all pairs


@dataclass(frozen=True)
class Alignment:
    """Synthetic against exact gradients over one sequence of windows, all with the same parameters."""

    cut_cosine: float  #: of dL/dstate at the cuts, mean over cuts
    cut_r2: float  #: 1 - squared error / squared norm of the exact dL/dstate, over all cuts
    cut_norm: float  #: norm of the synthetic over that of the exact dL/dstate, over all cuts
    parameters: float  #: cosine of the parameters' gradient with the exact one
    truncated: float  #: the same of truncated backpropagation


class Exact(NamedTuple):
    """What exact backpropagation through a sequence found."""

    outputs: list[Tensor]  #: what it began with: dL/d output of every window
    inputs: list[Tensor]  #: dL/d input of every window; empty for integer inputs
    cuts: list[Tensor]  #: dL/dstate (B, F) at every inner cut; empty for a stateless module
    parameters: Tensor  #: dL/d parameters, flat


class _Run(NamedTuple):
    """One window, with a graph of its own: from input and entering state to output and leaving state."""

    input: Tensor
    entering: State
    output: Tensor
    leaving: State


class SequenceGraph:
    """A module's way through the windows of one sequence: from a fresh state, without dropout.

    With windows n = 1 ... N that take state s_n-1 to s_n and output y_n, and g_n for dL/ds_n:

        dL/dw = sum_n (dy_n/dw)^T dL/dy_n + (ds_n/dw)^T g_n

    Exact backpropagation has g_N = 0 and g_n-1 = (dy_n/ds_n-1)^T dL/dy_n + (ds_n/ds_n-1)^T g_n; a time cut puts its
    prediction in the place of g_n, truncation zero. Neither the module nor any gradient it holds is changed.
    """

    def __init__(self, module: Chain, inputs: Sequence[Tensor]) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._runs: list[_Run] = []
        state = module.initial_state(len(inputs[0]))
        with without_dropout(module):
            for x in inputs:
                x = x.detach().requires_grad_(x.is_floating_point())
                entering = tuple(s.detach().requires_grad_() for s in state)
                output, state = module(x.clone(), entering)  # a first layer may work in place
                self._runs.append(_Run(x, entering, output, state))

    @property
    def outputs(self) -> list[Tensor]:
        """Of every window."""
        return [run.output.detach() for run in self._runs]

    @property
    def cuts(self) -> list[Tensor]:
        """The packed state (B, F) at every inner cut; empty for a stateless module."""
        return [pack(run.leaving).detach() for run in self._runs[:-1] if run.leaving]

    def exact(self, outputs: Sequence[Tensor]) -> Exact:
        """Backpropagation from dL/d output of every window, through all of them."""
        inputs: list[Tensor] = []
        cuts: list[Tensor] = []
        sums, back = self._zeros(), None
        for run, gradient in zip(reversed(self._runs), reversed(outputs), strict=True):
            floating = [run.input] if run.input.requires_grad else []
            found = self._back(run, [*floating, *run.entering], gradient, back)
            inputs, found = found[: len(floating)] + inputs, found[len(floating) :]
            back = pack(tuple(found[: len(run.entering)])) if run.entering else None
            cuts = ([] if back is None else [back]) + cuts
            sums = [total + one for total, one in zip(sums, found[len(run.entering) :], strict=True)]
        return Exact(list(outputs), inputs, cuts[1:], _flat(sums))

    def windowed(self, outputs: Sequence[Tensor], cuts: Sequence[Tensor]) -> Tensor:
        """The parameters' gradient, flat, if dL/dstate at the inner cuts is what is given; none: truncation."""
        sums = self._zeros()
        for n, (run, gradient) in enumerate(zip(self._runs, outputs, strict=True)):
            found = self._back(run, [], gradient, cuts[n] if n < len(cuts) else None)
            sums = [total + one for total, one in zip(sums, found, strict=True)]
        return _flat(sums)

    def _back(self, run: _Run, wanted: list[Tensor], output: Tensor, state: Tensor | None) -> list[Tensor]:
        """Gradients of what is wanted, then of the parameters, for one window."""
        ends, given = [run.output], [output]
        if state is not None:
            ends, given = [*ends, *run.leaving], [*given, *unpack(state, run.leaving)]
        wanted = [*wanted, *self._parameters]
        found = torch.autograd.grad(ends, wanted, given, retain_graph=True, allow_unused=True, materialize_grads=True)
        return list(found)

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self._parameters]


def alignment(module: Chain, cut: Interface, windows: Sequence[Window]) -> Alignment:
    """Run a whole model (its output is the scores of the labels) over the windows of one sequence, from a fresh state.

    Nothing is changed. The labels beyond a window's T steps are given to the cut.
    """
    passage, sizes = SequenceGraph(module, [w.inputs for w in windows]), [w.inputs.shape[1] for w in windows]
    labels = [w.labels[:, :size] for w, size in zip(windows, sizes, strict=True)]
    exact = passage.exact([cross_entropy_gradient(*pair)[1] for pair in zip(passage.outputs, labels, strict=True)])
    return in_time(passage, exact, cut, [w.labels[:, size:] for w, size in zip(windows, sizes, strict=True)])


def in_time(passage: SequenceGraph, exact: Exact, cut: Interface, futures: Sequence[Tensor]) -> Alignment:
    """A time cut's predictions, given the labels after every window (B, L); where it has none, zero stands for them."""
    states = passage.cuts
    answers = [cut.predict(*pair) for pair in zip(states, futures[: len(states)], strict=True)]
    predicted = [torch.zeros_like(s) if a is None else a for s, a in zip(states, answers, strict=True)]
    found = agreement(predicted, exact.cuts)
    synthetic, truncated = (passage.windowed(exact.outputs, cuts) for cuts in (predicted, ()))
    return Alignment(
        cut_cosine=found.cosine,
        cut_r2=found.r2,
        cut_norm=found.norm,
        parameters=cosine(synthetic, exact.parameters),
        truncated=cosine(truncated, exact.parameters),
    )


def in_depth(passage: SequenceGraph, exact: Exact, cut: Interface, labels: Sequence[Tensor]) -> Agreement | None:
    """A depth cut's predictions of dL/d output, given the labels (B, T) of every window; None if it has none."""
    answers = [cut.predict(*pair) for pair in zip(passage.outputs, labels, strict=True)]
    predicted = [answer for answer in answers if answer is not None]
    return agreement(predicted, exact.outputs) if predicted else None


def agreement(predicted: Sequence[Tensor], exact: Sequence[Tensor]) -> Agreement:
    """Compare pair by pair. Raises ValueError if there are not equally many."""
    pairs = list(zip(predicted, exact, strict=True))
    norm = sum(_square(e) for _, e in pairs)
    if not norm:
        return Agreement(math.nan, math.nan, math.nan)
    cosines = [cosine(p, e) for p, e in pairs if e.any()]
    error, size = sum(_square(p.double() - e) for p, e in pairs), sum(_square(p) for p, _ in pairs)
    return Agreement(sum(cosines) / len(cosines), 1 - error / norm, math.sqrt(size / norm))


def _square(x: Tensor) -> float:
    return x.double().pow(2).sum().item()


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
