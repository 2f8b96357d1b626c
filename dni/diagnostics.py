"""How good a synthetic gradient in time is, against exact backpropagation with the same parameters. For analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dni.data.text import Window
from dni.interface import Interface
from dni.metrics import cosine
from dni.predictor import summed_cross_entropy
from dni.recurrent import Chain, pack, unpack
from dni.types import State


@dataclass(frozen=True)
class Alignment:
    """Synthetic against exact gradients over one sequence of windows, all with the same parameters."""

    cut_cosine: float  #: of dL/dstate at the cuts, mean over cuts
    cut_r2: float  #: 1 - squared error / squared norm of the exact dL/dstate, over all cuts
    cut_norm: float  #: norm of the synthetic over that of the exact dL/dstate, over all cuts
    parameters: float  #: cosine of the parameters' gradient with the exact one
    truncated: float  #: the same of truncated backpropagation


def alignment(module: Chain, cut: Interface, windows: Sequence[Window]) -> Alignment:
    """Run a whole model (its output is the scores of the labels) over the windows of one sequence, from a fresh state.

    Nothing is changed but what `cut.gradient` remembers. The labels beyond a window's T steps are given to the cut.
    """
    exact_parameters, exact_cuts = _exact(module, windows)
    synthetic, predicted = _windowed(module, cut, windows)
    truncated, _ = _windowed(module, None, windows)
    pairs = list(zip(predicted, exact_cuts, strict=True))
    error = sum((p - e).pow(2).sum().item() for p, e in pairs)
    norm = sum(e.pow(2).sum().item() for e in exact_cuts)
    size = sum(p.pow(2).sum().item() for p in predicted)
    return Alignment(
        cut_cosine=sum(cosine(p, e) for p, e in pairs) / max(1, len(pairs)),
        cut_r2=1 - error / norm if norm else 0.0,
        cut_norm=(size / norm) ** 0.5 if norm else 0.0,
        parameters=cosine(synthetic, exact_parameters),
        truncated=cosine(truncated, exact_parameters),
    )


def _exact(module: Chain, windows: Sequence[Window]) -> tuple[Tensor, list[Tensor]]:
    """Backpropagation through all windows: the parameters' gradient, and dL/dstate (B, F) at every inner cut."""
    state, cuts = module.initial_state(len(windows[0].inputs)), []
    total = torch.zeros(())
    for window in windows:
        output, state = module(window.inputs, state)
        total = total + summed_cross_entropy(output, window.labels[:, : window.inputs.shape[1]])
        cuts.append(state)
    inner, parameters = [s for state in cuts[:-1] for s in state], list(module.parameters())
    found = torch.autograd.grad(total, [*parameters, *inner], allow_unused=True, materialize_grads=True)
    states, width = found[len(parameters) :], len(cuts[0])
    packed = [pack(states[n * width : (n + 1) * width]) for n in range(len(cuts) - 1)]
    return _flat(found[: len(parameters)]), packed


def _windowed(module: Chain, cut: Interface | None, windows: Sequence[Window]) -> tuple[Tensor, list[Tensor]]:
    """Window by window: the sum of the parameters' gradients, and what the cut answered at every inner cut."""
    state, answers = module.initial_state(len(windows[0].inputs)), []
    parameters = list(module.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    for n, window in enumerate(windows):
        steps = window.inputs.shape[1]
        output, leaving = module(window.inputs, tuple(s.detach() for s in state))
        ends: list[Tensor] = [summed_cross_entropy(output, window.labels[:, :steps])]
        given: list[Tensor | None] = [None]
        if n < len(windows) - 1:
            answer = _ask(cut, n, leaving, window.labels[:, steps:])
            answers.append(answer)
            ends += leaving
            given += unpack(answer, leaving)
        found = torch.autograd.grad(ends, parameters, given, allow_unused=True, materialize_grads=True)
        sums = [total + gradient for total, gradient in zip(sums, found, strict=True)]
        state = leaving
    return _flat(sums), answers


def _ask(cut: Interface | None, step: int, state: State, future: Tensor) -> Tensor:
    value = pack(tuple(s.detach() for s in state))
    answer = None if cut is None else cut.gradient(step, value, future)
    return torch.zeros_like(value) if answer is None else answer


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])
