"""Alignment of synthetic with exact gradients: an oracle is exact, an untrained predictor is truncation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni.data.window import Window
from dni.diagnostics import alignment
from dni.interfaces.base import ZeroInterface
from dni.interfaces.oracle import Oracle
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.models import LSTM
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, unpack
from dni.rng import without_dropout

B, T, D, V, WINDOWS = 3, 4, 5, 6, 3


def model() -> Chain:
    torch.manual_seed(0)
    return Chain(nn.Embedding(V, D), LSTM(D, D), nn.Linear(D, V)).double()


def sequence() -> list[Window]:
    ids = torch.randint(0, V, (B, T * WINDOWS + 1), generator=torch.Generator().manual_seed(1))
    no = torch.zeros(B).bool()
    return [Window(ids[:, n : n + T], ids[:, n + 1 : n + T + 1], no, no) for n in range(0, T * WINDOWS, T)]


class Exact(ZeroInterface):
    """Return the true gradient of the following windows."""

    def __init__(self, module: Chain, windows: list[Window]) -> None:
        self.module, self.windows, self.calls = module, windows, 0

    def predict(self, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        self.calls += 1  # the cuts are calls in order

        def rest(flat: Tensor, _: Tensor | None) -> Tensor:
            total, state = torch.zeros(()), unpack(flat, self.module.initial_state(B))
            for window in self.windows[self.calls :]:
                output, state = self.module(window.inputs, state)
                total = total + summed_cross_entropy(output, window.labels)
            return total

        return Oracle(rest)(value, labels)


def test_an_oracle_is_exact_at_the_cuts_and_on_the_parameters() -> None:
    module, windows = model(), sequence()
    found = alignment(module, Exact(module, windows), windows)
    assert found.cut_cosine == pytest.approx(1)
    assert found.cut_r2 == pytest.approx(1)
    assert found.cut_norm == pytest.approx(1)
    assert found.parameters == pytest.approx(1)
    assert 0 < found.truncated < 0.9999


def test_an_untrained_regressor_is_truncation() -> None:
    module = model()
    found = alignment(module, DecoupledInterface(Regressor(2 * D).double()), sequence())
    assert found.parameters == pytest.approx(found.truncated)
    assert (found.cut_cosine, found.cut_r2, found.cut_norm) == (0, 0, 0)


def test_without_dropout_leaves_every_mode_and_rate_as_it_was() -> None:
    """Torch's recurrent layers stay in training mode, which their backward pass on a GPU needs."""
    module = nn.Sequential(nn.LSTM(2, 2, 2, dropout=0.5), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)).eval())
    rnn, dropout, inner = module
    with without_dropout(module):
        assert (rnn.training, rnn.dropout, dropout.training) == (True, 0.0, False)
        x = torch.ones(3, 1, 2)
        assert torch.equal(rnn(x)[0], rnn(x)[0])
    assert (rnn.training, rnn.dropout, dropout.training) == (True, 0.5, True)
    assert not inner.training
    assert not inner[0].training
