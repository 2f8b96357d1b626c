"""Lambda-mixed targets against n-step targets by plain autograd; the auxiliary gradient in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni.experimental.auxiliary import auxiliary_gradient
from dni.experimental.lambda_return_in_time import WindowGraph, mixed_targets
from dni.losses import cross_entropy_gradient, summed_cross_entropy
from dni.models import LSTM
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, pack
from dni.types import State

B, T, D, M = 3, 4, 5, 4


class Sequence:
    """M windows of two LSTM layers in float64, from a random state, and a random synthetic gradient at every cut."""

    def __init__(self) -> None:
        self.model = Chain(LSTM(D, D), LSTM(D, D)).double()
        self.start: State = tuple(torch.randn_like(s) for s in self.model.initial_state(B))
        self.inputs = [torch.randn(B, T, D, dtype=torch.float64) for _ in range(M)]
        self.labels = [torch.randint(0, D, (B, T)) for _ in range(M)]
        self.synthetic = [torch.randn(B, 4 * D, dtype=torch.float64) for _ in range(M)]
        self.states = [self.start]
        with torch.no_grad():
            for x in self.inputs:
                self.states.append(self.model(x, self.states[-1])[1])

    def passages(self) -> list[WindowGraph]:
        """Each window as a graph of its own."""
        found = []
        for x, labels, entering, synthetic in zip(self.inputs, self.labels, self.states, self.synthetic, strict=False):
            leaves = tuple(s.clone().requires_grad_() for s in entering)
            output, leaving = self.model(x, leaves)
            found.append(WindowGraph(leaves, output, leaving, cross_entropy_gradient(output, labels)[1], synthetic))
        return found

    def bootstrapped_after(self, first: int, windows: int) -> Tensor:
        """The gradient of the state that enters window `first`, of all windows run as one, synthetic at their end."""
        leaves = tuple(s.clone().requires_grad_() for s in self.states[first])
        end = first + windows
        output, leaving = self.model(torch.cat(self.inputs[first:end], 1), leaves)
        loss = summed_cross_entropy(output, torch.cat(self.labels[first:end], 1))
        return pack(torch.autograd.grad(loss + (pack(leaving) * self.synthetic[end - 1]).sum(), leaves))


@pytest.mark.parametrize("mix", [0.0, 0.3, 0.9, 1.0])
def test_targets_are_the_mixture_of_all_lengths_of_bootstrapping(mix: float) -> None:
    """G = (1 - mix) sum_n mix^(n-1) G^(n) + mix^(N-1) G^(N), for the N windows that are left."""
    sequence = Sequence()
    found = mixed_targets(sequence.passages(), mix)
    assert len(found) == M
    for first, target in enumerate(found):
        left = M - first
        weights = [(1 - mix) * mix ** (n - 1) for n in range(1, left)] + [mix ** (left - 1)]
        parts = [w * sequence.bootstrapped_after(first, n) for n, w in enumerate(weights, 1)]
        torch.testing.assert_close(target, torch.stack(parts).sum(0), rtol=1e-10, atol=1e-12)


def test_no_mixing_is_one_window_and_full_mixing_is_truncated_backpropagation_through_all() -> None:
    sequence = Sequence()
    none, full = (mixed_targets(sequence.passages(), mix) for mix in (0.0, 1.0))
    for first in range(M):
        torch.testing.assert_close(none[first], sequence.bootstrapped_after(first, 1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(full[first], sequence.bootstrapped_after(first, M - first), rtol=1e-10, atol=1e-12)
    assert all(p.grad is None for p in sequence.model.parameters())


def test_a_window_whose_output_has_no_gradient_passes_the_state_gradient_on() -> None:
    sequence = Sequence()
    (found,) = mixed_targets([sequence.passages()[0]._replace(output_gradient=None)], 0.5)
    passage = sequence.passages()[0]
    expected = torch.autograd.grad((pack(passage.leaving) * passage.synthetic).sum(), passage.entering)
    torch.testing.assert_close(found, pack(expected))


def test_the_auxiliary_gradient_of_a_linear_head() -> None:
    """2 c W^T (W s + b - g), and zero in rows that are over."""
    head = Regressor(D).double()
    torch.nn.init.normal_(head.last.weight)
    torch.nn.init.normal_(head.last.bias)
    state, synthetic = torch.randn(2, B, D, dtype=torch.float64)
    found = auxiliary_gradient(head, state, synthetic, torch.tensor([False, True, False]), 0.3)
    weight, bias = head.last.weight.detach(), head.last.bias.detach()
    expected = 0.6 * (state @ weight.T + bias - synthetic) @ weight
    expected[1] = 0
    torch.testing.assert_close(found, expected)
    assert head.last.weight.grad is None
