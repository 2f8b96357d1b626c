"""A decoupled interface with targets that arrive late, in bursts, twice or never."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.errors import DivergedError
from dni.interfaces.base import TrueInterface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.types import IGNORED


def linear_interface(rate: float = 0.1, **settings: Any) -> DecoupledInterface:
    predictor = Regressor(1)
    return DecoupledInterface(predictor, torch.optim.SGD(predictor.parameters(), rate), **settings)


def row(number: float) -> Tensor:
    return torch.tensor([[number]])


def test_a_target_meets_the_value_of_its_own_step() -> None:
    """Loss (w v + b - g)^2 from w = b = 0: one SGD step of rate r gives w = 2 r g v, b = 2 r g."""
    interface = linear_interface(0.1)
    for step, value in enumerate([1.0, 10.0, 100.0]):
        interface.gradient(step, row(value), None)
    interface.target(1, row(3.0))
    assert interface.predictor.last.weight.item() == pytest.approx(2 * 0.1 * 3 * 10)
    assert interface.predictor.last.bias.item() == pytest.approx(2 * 0.1 * 3)


def test_late_and_in_bursts_each_target_is_used_once_in_its_order() -> None:
    late, prompt = linear_interface(0.01), linear_interface(0.01)
    values, targets = torch.randn(5, 1, 1), torch.randn(5, 1, 1)
    for step in range(5):
        late.gradient(step, values[step], None)
    for step in range(5):
        late.target(step, targets[step])
        prompt.gradient(step, values[step], None)
        prompt.target(step, targets[step])
    assert torch.equal(late.predictor.last.weight, prompt.predictor.last.weight)
    assert late.total.means()["staleness"] == pytest.approx((4 + 3 + 2 + 1) / 5)
    assert prompt.total.means()["staleness"] == 0


class Forgetful(Regressor):
    """A predictor that draws random numbers in training mode."""

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        return torch.nn.functional.dropout(super().forward(value, labels), 0.5, self.training)


def test_predict_equals_gradient_without_side_effects() -> None:
    interface = linear_interface()
    interface.gradient(1, row(1.0), None)
    interface.target(1, row(3.0))  # weight and bias become 0.6
    before = interface.state_dict()
    value, done = torch.tensor([[1.0], [2.0]]), torch.tensor([False, True])
    assert interface.predict(value, None).tolist() == [[pytest.approx(1.2)], [pytest.approx(1.8)]]
    assert interface.predict(value, None, done).tolist() == [[pytest.approx(1.2)], [0.0]]
    assert (interface.state_dict()["sent"], interface.state_dict()["latest"]) == (before["sent"], before["latest"])
    assert torch.equal(interface.predict(value, None), interface.gradient(2, value, None))
    forgetful = DecoupledInterface(Forgetful(1))
    torch.nn.init.ones_(forgetful.predictor.last.bias)
    drawn = torch.get_rng_state()
    assert forgetful.predict(value, None).tolist() == [[1.0], [1.0]]
    assert forgetful.predictor.training
    assert torch.equal(torch.get_rng_state(), drawn)
    for silent in (ZeroInterface(), TrueInterface(), LossInterface()):
        assert silent.predict(value, None) is None


def test_a_target_that_comes_twice_or_for_an_unknown_step_changes_nothing() -> None:
    interface = linear_interface()
    interface.gradient(1, row(1.0), None)
    interface.target(1, row(1.0))
    once = interface.predictor.last.weight.clone()
    interface.target(1, row(1.0))
    interface.target(77, row(1.0))
    assert torch.equal(interface.predictor.last.weight, once)
    assert interface.updates == 1


def test_missing_targets_are_dropped_and_memory_is_bounded() -> None:
    interface = linear_interface(memory=3)
    for step in range(10):
        interface.gradient(step, row(1.0), None)
    interface.target(6, row(1.0))
    assert interface.updates == 0
    interface.target(7, row(1.0))
    assert interface.updates == 1


def test_warm_up_counts_predictor_updates() -> None:
    interface = linear_interface(warmup=2)
    for step in range(3):
        interface.gradient(step, row(1.0), None)
        assert not interface.ready
    interface.target(0, row(1.0))
    assert not interface.ready
    interface.target(1, row(1.0))
    assert interface.ready


def test_state_survives_a_round_trip_with_targets_outstanding() -> None:
    first, second = linear_interface(), linear_interface()
    first.gradient(4, row(3.0), None)
    second.load_state_dict(first.state_dict())
    for interface in (first, second):
        interface.target(4, row(1.0))
    assert second.updates == 1
    assert torch.equal(first.predictor.last.weight, second.predictor.last.weight)


def test_cosine_is_between_prediction_and_target() -> None:
    interface = linear_interface()
    torch.nn.init.ones_(interface.predictor.last.weight)
    interface.gradient(0, torch.tensor([[3.0], [4.0]]), None)
    interface.target(0, torch.tensor([[4.0], [3.0]]))
    assert interface.take_recent()["cosine"] == pytest.approx(24 / 25)
    assert interface.take_recent()["cosine"] is None


def test_a_critic_learns_the_gradient_of_a_known_loss() -> None:
    """The true loss is a softmax over fixed weights: a critic of the same form must find its gradient."""
    torch.manual_seed(0)
    weights = torch.randn(3, 4)
    critic = SoftmaxCritic(4, classes=3)
    interface = DecoupledInterface(critic, torch.optim.Adam(critic.parameters(), 1e-2))
    for step in range(800):
        value, labels = torch.randn(64, 4), torch.randint(0, 3, (64,))
        interface.gradient(step, value, labels)
        probabilities = torch.softmax(value @ weights.T, -1)
        interface.target(step, (probabilities - torch.eye(3)[labels]) @ weights)
        if step == 599:
            interface.take_recent()
    cosine = interface.take_recent()["cosine"]
    assert cosine is not None
    assert cosine > 0.98


def test_loss_interface_gives_softmax_minus_one_hot() -> None:
    loss = LossInterface()
    gradient = loss.gradient(0, torch.zeros(1, 3, 2), torch.tensor([[0, 1, IGNORED]]))
    assert torch.equal(gradient, torch.tensor([[[-0.5, 0.5], [0.5, -0.5], [0.0, 0.0]]]))
    assert loss.loss == pytest.approx(math.log(2))


def test_a_loss_that_is_not_finite_stops_with_a_message() -> None:
    with pytest.raises(DivergedError, match="step 12"):
        LossInterface().gradient(12, torch.tensor([[math.nan, 0.0]]), torch.tensor([0]))
    interface = linear_interface()
    interface.gradient(5, row(1.0), None)
    with pytest.raises(DivergedError, match="step 5"):
        interface.target(5, row(math.inf))


def test_true_interface_hands_out_the_gradient_it_was_given() -> None:
    interface = TrueInterface()
    interface.target(3, row(1.5))
    assert torch.equal(interface.gradient(3, row(0.0), None), row(1.5))
    with pytest.raises(ValueError, match="step 3"):
        interface.gradient(3, row(0.0), None)


def test_zero_interface_is_no_gradient() -> None:
    assert ZeroInterface().gradient(0, row(1.0), None) is None


def test_done_rows_get_no_gradient_and_are_not_learned() -> None:
    some, alone = linear_interface(0.1), linear_interface(0.1)
    for interface in (some, alone):
        torch.nn.init.ones_(interface.predictor.last.weight)
    done = torch.tensor([False, True, False])
    answer = some.gradient(0, torch.tensor([[1.0], [2.0], [3.0]]), None, done)
    assert answer is not None
    assert answer.flatten().tolist() == [1.0, 0.0, 3.0]
    some.target(0, torch.tensor([[5.0], [0.0], [7.0]]))
    alone.gradient(0, torch.tensor([[1.0], [3.0]]), None)
    alone.target(0, torch.tensor([[5.0], [7.0]]))
    assert torch.equal(some.predictor.last.weight, alone.predictor.last.weight)
    assert torch.equal(some.gradient(1, torch.ones(2, 1), None, torch.ones(2).bool()), torch.zeros(2, 1))
    some.target(1, torch.zeros(2, 1))
    assert some.updates == 1


def test_several_fits_per_target_are_several_steps() -> None:
    twice, once = linear_interface(0.01, steps_per_target=2), linear_interface(0.01)
    for interface in (twice, once):
        interface.gradient(0, row(2.0), None)
        interface.target(0, row(1.0))
    once.gradient(0, row(2.0), None)
    once.target(0, row(1.0))
    assert torch.equal(twice.predictor.last.weight, once.predictor.last.weight)
    assert twice.updates == 1


def test_the_scale_is_on_the_answer_alone() -> None:
    """The predictor still learns the target itself: from w = 1, b = 0, value 2, target 5, error 3 without the scale."""
    interface = linear_interface(0.01, scale=0.1)
    torch.nn.init.ones_(interface.predictor.last.weight)
    done = torch.tensor([False, True])
    answer = interface.gradient(0, torch.tensor([[2.0], [4.0]]), None, done)
    assert answer.flatten().tolist() == pytest.approx([0.2, 0.0])
    assert torch.equal(interface.predict(torch.tensor([[2.0], [4.0]]), None, done), answer)
    interface.target(0, torch.tensor([[5.0], [0.0]]))
    assert interface.total.loss == pytest.approx(9)
    assert interface.predictor.last.weight.item() == pytest.approx(1 + 2 * 0.01 * 3 * 2)


def test_predict_keeps_no_value() -> None:
    interface = linear_interface()
    interface.predict(row(1.0), None)
    interface.target(0, row(1.0))
    assert (interface.updates, interface.state_dict()["sent"]) == (0, {})


def test_each_fit_of_a_predictor_is_clipped() -> None:
    """Its gradient at w = b = 0 is -2 g (v, 1) = -(24, 8): of norm 25.3, cut to 1, so the step is rate * direction."""
    interface = linear_interface(0.5, clip=1.0)
    interface.gradient(0, row(3.0), None)
    interface.target(0, row(4.0))
    found = interface.predictor.last.weight.item(), interface.predictor.last.bias.item()
    assert found == pytest.approx((0.5 * 3 / math.sqrt(10), 0.5 / math.sqrt(10)), rel=1e-5)
