"""The law of beta by agreement, by hand and on a linear loss where a large constant beta diverges."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.interfaces.agreement import LEAST, Agreement
from dni.interfaces.corrected import CorrectedInterface
from dni.stages.correcting import CorrectingStage
from tests.dni.interfaces.test_corrected import Constant, corrected
from tests.support.runs import assert_same, parameters_of
from tests.support.stages.optimizer import sgd
from workers.launch.launcher import launch
from workers.storage import checkpoint

LAG, RATE, BETA = 2, 0.1, 10.0


def test_the_share_by_hand() -> None:
    """A mean over four rows, (3, 4); (4, 3) at a cosine of 24/25; its opposite; (3, -4), at right angles."""
    law = Agreement()
    law.compare(torch.tensor([[[2.0, 4.0], [4.0, 4.0]], [[3.0, 8.0], [3.0, 0.0]]]), None)
    assert law.newest is not None
    assert law.newest.tolist() == [3.0, 4.0]
    assert law.share == 1
    law.compare(torch.tensor([[4.0, 3.0]]), law.newest)
    assert law.share == 1  # not above
    law.compare(torch.tensor([[-4.0, -3.0]]), law.newest)
    assert law.share == pytest.approx(math.exp(-0.1))
    law.compare(torch.tensor([[3.0, -4.0]]), law.newest)
    assert law.share == pytest.approx(math.exp(-0.1))
    law.compare(torch.tensor([[0.0, -1.0]]), law.newest)
    assert law.share == pytest.approx(math.exp(-0.1 + 0.1 * 4 / 5))
    for _ in range(100):
        assert law.newest is not None
        law.compare(-law.newest[None], law.newest)
    assert law.share == pytest.approx(LEAST)


def test_the_means_of_feature_maps_are_over_the_batch() -> None:
    law = Agreement()
    law.compare(torch.arange(8.0).reshape(2, 2, 2, 1), None)
    assert law.newest is not None
    assert law.newest.tolist() == [[[2.0], [3.0]], [[4.0], [5.0]]]


def train(beta: float, agreement: Agreement | None, steps: int) -> list[float]:
    """Return w after each step of v = w, where the next stage's target is v - 1 and arrives LAG steps late."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    stage = CorrectingStage(module, sgd(module, RATE), memory=LAG + 1)
    cut = CorrectedInterface(Constant(0.0), beta=beta, agreement=agreement, lag=LAG, history=LAG + 1)
    one, labels = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    outputs, weights = {}, []
    for step in range(1, steps + 1):
        outputs[step], _ = stage.forward(one, step=step)
        if step > LAG:
            cut.target(step - LAG, outputs[step - LAG] - 1)
        stage.backward(cut.gradient(step, outputs[step], labels), step=step)
        for correction in cut.corrections(step):
            stage.backward(correction.gradient, step=correction.step)
        stage.update()
        weights.append(module.weight.item())
    return weights


def by_hand(beta: float, steps: int) -> list[float]:
    """The same in numbers: w <- w - RATE beta share r, with r of LAG steps ago, against r of 2 LAG + 1 steps ago."""
    w, share, residuals, weights = 0.0, 0.0, [], []
    for step in range(steps):
        residuals.append(w - 1)
        if step >= 2 * LAG + 1:
            product = residuals[step - LAG] * residuals[step - 2 * LAG - 1]
            cosine = (product > 0) - (product < 0)
            share = min(0.0, max(math.log(1e-3), share + 0.1 * cosine))
        if step >= LAG:
            w -= RATE * beta * math.exp(share) * residuals[step - LAG]
        weights.append(w)
    return weights


def test_a_large_beta_diverges_alone_and_learns_with_agreement() -> None:
    """A gain of RATE beta = 1 is beyond 2 sin(pi / (2 (2 LAG + 1))) = 0.62, from where delayed corrections diverge."""
    alone, agreed = train(BETA, None, 300), train(BETA, Agreement(), 300)
    assert max(abs(w - 1) for w in alone[-10:]) > 1e6
    assert max(abs(w - 1) for w in agreed[-10:]) < 1e-3
    assert agreed == pytest.approx(by_hand(BETA, 300), rel=1e-6, abs=1e-9)


def test_a_small_beta_is_not_touched() -> None:
    assert train(1.0, Agreement(), 100) == train(1.0, None, 100)


def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path) -> None:
    law: dict[str, Any] = {"depth": {"beta": 3.0, "beta_law": "agreement"}}
    launch(corrected(**law), tmp_path / "whole")
    launch(corrected(**law, checkpoint={"every": 6, "keep": 9}), tmp_path / "saved")
    launch(corrected(**law, resume=str(tmp_path / "saved"), resume_step=6), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))
    whole, part = (checkpoint.load(tmp_path / name, 10, 1)["depth"]["agreement"] for name in ("whole", "part"))
    assert whole["log_share"] == part["log_share"] < 0
