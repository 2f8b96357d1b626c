"""Compare synthetic gradients with exact backpropagation under the same parameters. For analysis."""

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
from dni.metrics.fit import cosine
from dni.named_tensors import Value, batch_of, map_tensors
from dni.recurrent import Chain, pack, unpack
from dni.rng import without_dropout
from dni.types import State


@dataclass(frozen=True)
class Agreement:
    """Agreement of predicted and exact gradients, a pair per cut or window. All nan if every exact gradient is zero."""

    cosine: float  #: mean over the pairs whose exact gradient is not zero
    r2: float  #: 1 - squared error / squared norm of the exact gradients, over all pairs
    norm: float  #: norm of the predicted gradients / norm of the exact gradients, over all pairs


@dataclass(frozen=True)
class Alignment:
    """Agreement of synthetic and exact gradients over one sequence of windows, all with the same parameters."""

    cut_cosine: float  #: cosine of synthetic and exact dL/dstate, mean over the cuts
    cut_r2: float  #: 1 - squared error / squared norm of the exact dL/dstate, over all cuts
    cut_norm: float  #: norm of the synthetic dL/dstate / norm of the exact dL/dstate, over all cuts
    parameters: float  #: cosine of the parameters' gradient with synthetic cuts and the exact one
    truncated: float  #: cosine of the parameters' gradient with truncation and the exact one


class Exact(NamedTuple):
    """The gradients from exact backpropagation through a sequence."""

    outputs: list[Tensor]  #: dL/d output of every window, as given
    inputs: list[Tensor]  #: dL/d input of every window; empty for integer inputs
    cuts: list[Tensor]  #: dL/dstate (B, F) at every inner cut; empty for a stateless module
    parameters: Tensor  #: dL/d parameters, flat


class _Run(NamedTuple):
    """The graph of one window, from input and entering state to output and leaving state."""

    input: Value
    entering: State
    output: Tensor
    leaving: State


class SequenceGraph:
    """The graphs of a module over the windows of one sequence, from a fresh state, without dropout.

    With windows n = 1 ... N that take state s_n-1 to s_n and output y_n, and g_n for dL/ds_n:

        dL/dw = sum_n (dy_n/dw)^T dL/dy_n + (ds_n/dw)^T g_n

    Exact backpropagation has g_N = 0 and g_n-1 = (dy_n/ds_n-1)^T dL/dy_n + (ds_n/ds_n-1)^T g_n. A time cut replaces g_n
    by its prediction, truncation by zero. The module and the gradients of its parameters stay unchanged.
    """

    def __init__(self, module: Chain, inputs: Sequence[Value]) -> None:
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._runs: list[_Run] = []
        state = module.initial_state(batch_of(inputs[0]))
        with without_dropout(module):
            for x in inputs:
                x = _leaf(x) if isinstance(x, Tensor) else x  # named inputs are those of the first stage
                entering = tuple(s.detach().requires_grad_() for s in state)
                output, state = module(
                    map_tensors(Tensor.clone, x), entering
                )  # the first layer may modify its input in place
                self._runs.append(_Run(x, entering, output, state))

    @property
    def outputs(self) -> list[Tensor]:
        """The output of every window."""
        return [run.output.detach() for run in self._runs]

    @property
    def cuts(self) -> list[Tensor]:
        """The packed state (B, F) at every inner cut; empty for a stateless module."""
        return [pack(run.leaving).detach() for run in self._runs[:-1] if run.leaving]

    def exact(self, outputs: Sequence[Tensor]) -> Exact:
        """Backpropagate dL/d output of every window through the whole sequence."""
        inputs: list[Tensor] = []
        cuts: list[Tensor] = []
        sums, state_gradient = self._zeros(), None
        for run, gradient in zip(reversed(self._runs), reversed(outputs), strict=True):
            floating = [run.input] if isinstance(run.input, Tensor) and run.input.requires_grad else []
            found = self._backward(run, [*floating, *run.entering], gradient, state_gradient)
            inputs, found = found[: len(floating)] + inputs, found[len(floating) :]
            state_gradient = pack(tuple(found[: len(run.entering)])) if run.entering else None
            cuts = ([] if state_gradient is None else [state_gradient]) + cuts
            sums = [total + one for total, one in zip(sums, found[len(run.entering) :], strict=True)]
        return Exact(list(outputs), inputs, cuts[1:], _flat(sums))

    def windowed(self, outputs: Sequence[Tensor], cuts: Sequence[Tensor]) -> Tensor:
        """Return the flat parameter gradient for given dL/dstate at the inner cuts; without any: truncation."""
        sums = self._zeros()
        for n, (run, gradient) in enumerate(zip(self._runs, outputs, strict=True)):
            found = self._backward(run, [], gradient, cuts[n] if n < len(cuts) else None)
            sums = [total + one for total, one in zip(sums, found, strict=True)]
        return _flat(sums)

    def _backward(self, run: _Run, leaves: list[Tensor], output: Tensor, state: Tensor | None) -> list[Tensor]:
        """Return the gradients of the leaves, then of the parameters, for one window."""
        ends, gradients = [run.output], [output]
        if state is not None:
            ends, gradients = [*ends, *run.leaving], [*gradients, *unpack(state, run.leaving)]
        inputs = [*leaves, *self._parameters]
        found = torch.autograd.grad(
            ends, inputs, gradients, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return list(found)

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self._parameters]


def alignment(module: Chain, cut: Interface, windows: Sequence[Window]) -> Alignment:
    """Compare a time cut's gradients with the exact ones, over the windows of one sequence from a fresh state.

    `module` is a whole model whose output is the scores of the labels. The cut sees the labels beyond a window's T
    steps. The module and the cut stay unchanged.
    """
    graph, sizes = SequenceGraph(module, [w.inputs for w in windows]), [w.inputs.shape[1] for w in windows]
    labels = [w.labels[:, :size] for w, size in zip(windows, sizes, strict=True)]
    exact = graph.exact([cross_entropy_gradient(*pair)[1] for pair in zip(graph.outputs, labels, strict=True)])
    return in_time(graph, exact, cut, [w.labels[:, size:] for w, size in zip(windows, sizes, strict=True)])


def in_time(graph: SequenceGraph, exact: Exact, cut: Interface, futures: Sequence[Tensor]) -> Alignment:
    """Compare a time cut's predictions with the exact gradients, given the labels (B, L) after every window.

    A missing prediction counts as zero.
    """
    states = graph.cuts
    answers = [cut.predict(*pair) for pair in zip(states, futures[: len(states)], strict=True)]
    predicted = [torch.zeros_like(s) if a is None else a for s, a in zip(states, answers, strict=True)]
    found = agreement(predicted, exact.cuts)
    synthetic, truncated = (graph.windowed(exact.outputs, cuts) for cuts in (predicted, ()))
    return Alignment(
        cut_cosine=found.cosine,
        cut_r2=found.r2,
        cut_norm=found.norm,
        parameters=cosine(synthetic, exact.parameters),
        truncated=cosine(truncated, exact.parameters),
    )


def in_depth(graph: SequenceGraph, exact: Exact, cut: Interface, labels: Sequence[Tensor]) -> Agreement | None:
    """Compare a depth cut's predictions of dL/d output with the exact ones, given the labels (B, T) of every window.

    Return None if the cut predicts nothing.
    """
    answers = [cut.predict(*pair) for pair in zip(graph.outputs, labels, strict=True)]
    predicted = [answer for answer in answers if answer is not None]
    return agreement(predicted, exact.outputs) if predicted else None


def agreement(predicted: Sequence[Tensor], exact: Sequence[Tensor]) -> Agreement:
    """Compare gradients pair by pair. Raise ValueError if the two sequences differ in length."""
    pairs = list(zip(predicted, exact, strict=True))
    norm = sum(_square(e) for _, e in pairs)
    if not norm:
        return Agreement(math.nan, math.nan, math.nan)
    cosines = [cosine(p, e) for p, e in pairs if e.any()]
    error, size = sum(_square(p.double() - e) for p, e in pairs), sum(_square(p) for p, _ in pairs)
    return Agreement(sum(cosines) / len(cosines), 1 - error / norm, math.sqrt(size / norm))


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.is_floating_point())


def _square(x: Tensor) -> float:
    return x.double().pow(2).sum().item()


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
