"""Alignment of synthetic with exact gradients: an oracle is exact, an untrained predictor is truncation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni.data.text import Window
from dni.diagnostics import alignment
from dni.interface import DecoupledInterface, ZeroInterface
from dni.models import LSTM
from dni.oracle import Oracle
from dni.predictor import Regressor, summed_cross_entropy
from dni.recurrent import Chain, unpack

B, T, D, V, WINDOWS = 3, 4, 5, 6, 3


def model() -> Chain:
    torch.manual_seed(0)
    return Chain(nn.Embedding(V, D), LSTM(D, D), nn.Linear(D, V)).double()


def sequence() -> list[Window]:
    ids = torch.randint(0, V, (B, T * WINDOWS + 1), generator=torch.Generator().manual_seed(1))
    no = torch.zeros(B).bool()
    return [Window(ids[:, n : n + T], ids[:, n + 1 : n + T + 1], no, no) for n in range(0, T * WINDOWS, T)]


class Exact(ZeroInterface):
    """Answers with the true gradient of the windows that follow."""

    def __init__(self, module: Chain, windows: list[Window]) -> None:
        self.module, self.windows = module, windows

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, over: Tensor | None = None) -> Tensor:
        def rest(flat: Tensor, _: Tensor | None) -> Tensor:
            total, state = torch.zeros(()), unpack(flat, self.module.initial_state(B))
            for window in self.windows[step + 1 :]:
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
