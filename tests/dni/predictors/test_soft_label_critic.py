"""The soft-label critic: its gradient against autograd, and its training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.soft_label_critic import SoftLabelCritic
from dni.types import IGNORED

B, F, V, L, X, H = 7, 4, 3, 2, 5, 6


def critic(hidden: int = 8) -> SoftLabelCritic:
    torch.manual_seed(0)
    found = SoftLabelCritic(
        F, classes=V, future_labels=L, inputs=X, history=H, hidden=hidden, gradient_weight=0.5
    ).double()
    torch.nn.init.normal_(found.guess.weight)
    torch.nn.init.normal_(found.last.weight)
    return found


def history_of_inputs() -> Tensor:
    inputs = torch.randint(0, X, (B, H))
    inputs[0, :3] = IGNORED  # a stream with fewer inputs than the history
    return inputs


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_gradient_is_autograds_of_the_cross_entropy_with_the_guesses(hidden: int) -> None:
    model, inputs = critic(hidden), history_of_inputs()
    value = torch.randn(B, F, dtype=torch.float64, requires_grad=True)
    z = value if model.first is None else torch.tanh(model.first(value))
    onehot = torch.nn.functional.one_hot(inputs.clamp(min=0), X).double() * (inputs != IGNORED).unsqueeze(-1)
    first = model.seen.table.weight[1:].view(H, X, -1)
    soft_labels = model.guess(torch.relu(torch.einsum("bhx,hxd->bd", onehot, first))).view(B * L, V + 1).softmax(1)
    scores = model.last(z).view(B * L, V + 1)
    total = torch.nn.functional.cross_entropy(scores, soft_labels.detach(), reduction="sum")
    (expected,) = torch.autograd.grad(total, value)
    torch.testing.assert_close(model(value.detach(), inputs), expected, rtol=1e-10, atol=1e-12)


def test_the_loss_is_both_cross_entropies_and_the_distance_to_the_target() -> None:
    model, inputs = critic(), history_of_inputs()
    value, target = torch.randn(2, B, F, dtype=torch.float64)
    future = torch.randint(0, V, (B, L))
    future[1, 1] = IGNORED  # its class is V
    classes = torch.where(future == IGNORED, V, future).flatten()
    assert model.first is not None
    scores = model.last(torch.tanh(model.first(value))).view(-1, V + 1).log_softmax(1)
    soft_labels = model.guess(torch.relu(model.seen(inputs))).view(-1, V + 1).log_softmax(1)
    rows = torch.arange(B * L)
    losses = -(scores[rows, classes] + soft_labels[rows, classes]).sum() / B
    distance = (model(value, inputs) - target).pow(2).sum() / B
    fit = model.fit(value, torch.cat([inputs, future], 1), target)
    torch.testing.assert_close(fit.loss, losses + 0.5 * distance, rtol=1e-10, atol=1e-12)


def test_teacher_gets_no_gradient_from_the_distance() -> None:
    model, inputs = critic(), history_of_inputs()
    value, target = torch.randn(2, B, F, dtype=torch.float64)
    context = torch.cat([inputs, torch.zeros(B, L, dtype=torch.int64)], 1)
    gradients = []
    for scale in (1.0, 9.0):
        model.zero_grad()
        model.fit(value, context, scale * target).loss.backward()
        assert model.guess.weight.grad is not None
        assert model.last.weight.grad is not None
        gradients.append((model.guess.weight.grad.clone(), model.last.weight.grad.clone()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    assert not torch.equal(gradients[0][1], gradients[1][1])


def test_untrained_soft_labels_are_uniform_and_gradients_small() -> None:
    torch.manual_seed(0)
    model = SoftLabelCritic(F, classes=V, future_labels=L, inputs=X, history=H, hidden=8)
    assert model(torch.randn(B, F), history_of_inputs()).abs().max() < 1e-3


def test_through_an_interface_it_learns_labels_that_come_later() -> None:
    """The next label is the oldest symbol of the history, and the state is noise. The teacher learns it."""
    torch.manual_seed(0)
    model = SoftLabelCritic(F, classes=X, future_labels=1, inputs=X, history=H, hidden=16)
    cut = DecoupledInterface(model, torch.optim.Adam(model.parameters(), 1e-2))
    nothing = torch.zeros(64, F)
    for step in range(150):
        inputs = torch.randint(0, X, (64, H))
        cut.gradient(step, nothing, inputs)
        cut.target(step, nothing, inputs[:, :1])
    inputs = torch.randint(0, X, (64, H))
    soft_labels = model.guess(torch.relu(model.seen(inputs))).softmax(-1)
    assert (soft_labels.argmax(-1) == inputs[:, 0]).float().mean() > 0.95


def test_soft_label_critic_needs_the_last_inputs() -> None:
    with pytest.raises(ValueError, match="but the step has none"):
        critic()(torch.zeros(B, F, dtype=torch.float64), None)
