"""A stage with a local objective, before a stage with a longer update period: the sum of gradients at each step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from dni.errors import DivergedError
from dni.experimental.local_objective import LocalObjective
from dni.experimental.multi_rate import MultiRateInterface
from dni.interfaces.base import TrueInterface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.regressor import Regressor
from dni.types import IGNORED

B, D, RATE = 3, 4, 0.1
OWN = torch.tensor([[2], [IGNORED], [0]])
SENT = torch.tensor([[7], [8], [9]])
LABELS = torch.cat([OWN, SENT], dim=1)


def value(seed: int = 0) -> torch.Tensor:
    return torch.randn(B, 1, D, generator=torch.Generator().manual_seed(seed))


def task(inner: TrueInterface | MultiRateInterface | DecoupledInterface | ZeroInterface) -> LocalObjective:
    torch.manual_seed(5)
    return LocalObjective(inner, D, classes=3, learning_rate=RATE)


def own_gradient(objective: LocalObjective, x: torch.Tensor) -> torch.Tensor:
    """Compute with PyTorch the summed losses of the two counted rows."""
    leaf = x.clone().requires_grad_()
    F.cross_entropy(objective.head(leaf)[[0, 2], 0], OWN[[0, 2], 0], reduction="sum").backward()
    assert leaf.grad is not None
    objective.head.zero_grad()
    return leaf.grad


def test_the_gradient_is_the_sum_of_both_and_is_divided_by_the_own_labels() -> None:
    objective, x, target = task(TrueInterface()), value(), value(1)
    expected = own_gradient(objective, x) + target
    objective.target(4, target)
    (due,) = objective.ready_steps(4, x, LABELS)
    assert (due.step, due.labels) == (4, B)
    torch.testing.assert_close(due.gradient, expected, rtol=0, atol=1e-7)


def test_the_head_learns_the_mean_of_the_counted_labels() -> None:
    """Adam's first step is `RATE` against the sign of every gradient."""
    objective, x = task(ZeroInterface()), value()
    before = {name: p.detach().clone() for name, p in objective.head.named_parameters()}
    loss = F.cross_entropy(objective.head(x)[[0, 2], 0], OWN[[0, 2], 0], reduction="sum")
    signs = torch.autograd.grad(loss, list(objective.head.parameters()))
    objective.gradient(1, x, LABELS)
    assert objective.measured == (pytest.approx(loss.item()), 2)
    for (name, after), gradient in zip(objective.head.named_parameters(), signs, strict=True):
        torch.testing.assert_close(after.detach(), before[name] - RATE * gradient.sign(), rtol=0, atol=1e-4)


def test_without_a_counted_label_only_the_inner_gradient_remains() -> None:
    objective, x, target = task(TrueInterface()), value(), value(1)
    before = [p.detach().clone() for p in objective.head.parameters()]
    objective.target(2, target)
    ignored = torch.cat([torch.full_like(OWN, IGNORED), SENT], dim=1)
    assert torch.equal(objective.gradient(2, x, ignored), target)
    assert objective.measured is None
    assert all(torch.equal(a, b) for a, b in zip(before, objective.head.parameters(), strict=True))


def test_a_predictor_of_the_message_sees_only_its_labels_and_is_taught_as_ever() -> None:
    inner = DecoupledInterface(Regressor(D, classes=10), warmup=1)
    objective, x = task(inner), value()
    assert not objective.ready
    objective.gradient(3, x, LABELS)
    assert torch.equal(inner.state_dict()["sent"]["3"]["labels"], SENT)
    objective.target(3, value(2))
    assert objective.ready
    assert objective.means()["staleness"] == 0.0
    assert objective.take_recent()["cosine"] is not None


def test_evaluation_uses_the_objectives_own_labels() -> None:
    objective, x = task(ZeroInterface()), value()
    result = objective.evaluation_outputs(x, LABELS)
    scores = x @ objective.head.weight.T + objective.head.bias
    counted = scores[[0, 2], 0], OWN[[0, 2], 0]  # the other is IGNORED
    assert result.loss == pytest.approx(F.cross_entropy(*counted, reduction="sum").item(), rel=1e-6)
    assert (result.hits, result.labels) == (int((counted[0].argmax(1) == counted[1]).sum()), 2)
    assert ZeroInterface().evaluation_outputs(x, SENT) is None
    at_the_end = LossInterface().evaluation_outputs(x, OWN)
    counted = x[[0, 2], 0], OWN[[0, 2], 0]
    assert at_the_end.loss == pytest.approx(F.cross_entropy(*counted, reduction="sum").item(), rel=1e-6)


def test_continues_from_its_state_dict() -> None:
    a, b = (
        task(DecoupledInterface(Regressor(D, classes=10))),
        LocalObjective(DecoupledInterface(Regressor(D, classes=10)), D, classes=3, learning_rate=RATE),
    )
    for step in (1, 2):
        a.gradient(step, value(step), LABELS)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for step in (2, 3):
        for objective in (a, b):
            objective.target(step, value(9))
        assert torch.equal(a.gradient(step + 1, value(step), LABELS), b.gradient(step + 1, value(step), LABELS))


def test_a_loss_that_is_not_finite_and_missing_labels_are_errors() -> None:
    with pytest.raises(DivergedError, match="own loss of step 1"):
        task(ZeroInterface()).gradient(1, value() * torch.inf, LABELS)
    with pytest.raises(ValueError, match="needs the labels"):
        task(ZeroInterface()).gradient(1, value(), None)


def test_multi_rate_interface_asks_at_ticks_only() -> None:
    interface = MultiRateInterface(TrueInterface(), 3)
    assert interface.targets_first
    assert [interface.required_step(step) for step in range(1, 7)] == [None, None, 3, None, None, 6]
    interface.target(3, value())
    assert [interface.gradient(step, value(), None) is None for step in (1, 2, 3, 4)] == [True, True, False, True]
    predicting = MultiRateInterface(DecoupledInterface(Regressor(D)), 2)
    for step in range(1, 7):
        predicting.gradient(step, value(), None)
    assert sorted(predicting.state_dict()["sent"]) == ["2", "4", "6"]
