"""One stage against plain autograd, with zero predictors (truncation) and oracles (exact gradients)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.oracle import Oracle
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.models import LSTM
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, unpack
from dni.stages.base import Stage, as_chain
from tests.support.stages.optimizer import sgd

B, T, D, V, WINDOWS = 3, 4, 5, 6, 3


def recurrent_model() -> Chain:
    torch.manual_seed(0)
    return Chain(nn.Embedding(V, D), LSTM(D, D), LSTM(D, D), nn.Linear(D, V)).double()


def windows(seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, V, (B, T * WINDOWS + 1), generator=generator)
    return [(ids[:, n * T : n * T + T], ids[:, n * T + 1 : n * T + T + 1]) for n in range(WINDOWS)]


def run_in_time(model: Chain, cut: Interface, update: bool) -> Stage:
    """Run all windows through one stage with the given time cut; without `update`, parameters are constant."""
    stage, loss = Stage(model, sgd(model), first=True), LossInterface()
    for n, (inputs, labels) in enumerate(windows()):
        output, state = stage.forward(inputs)
        assert state is not None
        gradients = stage.backward(loss.gradient(n, output, labels), cut.gradient(n, state, None))
        assert gradients.state is not None
        cut.target(n - 1, gradients.state)
        if update:
            stage.update(labels.numel())
    return stage


def gradients_of(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_backward_gives_the_gradients_of_plain_autograd() -> None:
    module = nn.Sequential(nn.Linear(D, 4), nn.Tanh()).double()
    stage, x = Stage(module, sgd(module)), torch.randn(B, D, dtype=torch.float64)
    output, state = stage.forward(x)
    assert state is None
    back = torch.randn_like(output)
    gradients = stage.backward(back)
    leaf = x.clone().requires_grad_()
    expected = torch.autograd.grad(module(leaf), [leaf, *module.parameters()], back)
    assert gradients.activation is not None
    assert torch.equal(gradients.activation, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(gradients_of(module), expected[1:], strict=True))


def test_update_divides_clips_and_steps() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    stage = Stage(module, sgd(module, 1.0), clip=2.0)
    for divisor, expected in ((10.0, -0.6), (1.0, -0.6 - 2.0)):  # 6 / 10 is below the clip, 6 / 1 is cut to 2
        stage.forward(torch.tensor([[3.0]]))
        stage.backward(torch.tensor([[2.0]]))
        stage.update(divisor)
        assert module.weight.item() == pytest.approx(expected, abs=1e-5)
    stage.forward(torch.tensor([[3.0]]))
    stage.backward(torch.tensor([[2.0]]))
    stage.update(1.0, move=False)
    assert module.weight.item() == pytest.approx(-2.6, abs=1e-5)
    assert module.weight.grad is None


def test_a_first_layer_may_work_in_place() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2))
    stage = Stage(module, sgd(module))
    sent = torch.tensor([[-1.0, 2.0]])
    output, _ = stage.forward(sent)
    assert torch.equal(sent, torch.tensor([[-1.0, 2.0]]))
    activation = stage.backward(torch.ones_like(output)).activation
    assert activation is not None
    assert activation[0, 0].item() == 0.0


@pytest.mark.parametrize("hidden", [0, 8])
def test_an_untrained_regressor_in_time_is_truncated_backpropagation_bit_for_bit(hidden: int) -> None:
    predictor = Regressor(4 * D, hidden=hidden).double()
    frozen = DecoupledInterface(predictor, torch.optim.SGD(predictor.parameters(), 0.0))
    synthetic = run_in_time(recurrent_model(), frozen, update=True).module
    truncated = run_in_time(recurrent_model(), ZeroInterface(), update=True).module
    assert frozen.updates == WINDOWS - 1
    for a, b in zip(synthetic.parameters(), truncated.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_oracle_in_time_is_full_backpropagation() -> None:
    model, following = recurrent_model(), iter(range(1, WINDOWS + 1))

    def rest(state: Tensor, _: Tensor | None) -> Tensor:
        total, carried = state.sum() * 0, unpack(state, model.initial_state(B))
        for inputs, labels in windows()[next(following) :]:
            output, carried = model(inputs, carried)
            total = total + summed_cross_entropy(output, labels)
        return total

    class Exact(ZeroInterface):
        def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
            return Oracle(rest)(value, labels)

    run_in_time(model, Exact(), update=False)
    predicted = [g.clone() for g in gradients_of(model)]
    model.zero_grad()
    whole = windows()
    inputs, labels = (torch.cat([w[part] for w in whole], 1) for part in (0, 1))
    summed_cross_entropy(model(inputs, model.initial_state(B))[0], labels).backward()
    for a, b in zip(predicted, gradients_of(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def split_step(interfaces: Callable[[list[Stage]], list[Interface]]) -> list[Stage]:
    """Run three decoupled stages for three steps with updates; the cuts are made from the stages."""
    layers = list(recurrent_model())
    parts = [Chain(*layers[:2]), Chain(layers[2]), Chain(layers[3])]
    stages = [Stage(part, sgd(part), first=k == 0) for k, part in enumerate(parts)]
    cuts = [*interfaces(stages), LossInterface()]
    for n, (inputs, labels) in enumerate(windows()):
        x, answers = inputs, []
        for stage, cut in zip(stages, cuts, strict=True):
            x, _ = stage.forward(x)
            answers.append(cut.gradient(n, x, labels))
        for stage, answer in zip(stages, answers, strict=True):
            stage.backward(answer)
            stage.update(labels.numel())
    return stages


def test_an_oracle_in_depth_is_backpropagation() -> None:
    def oracles(stages: list[Stage]) -> list[Interface]:
        def rest_after(k: int) -> Callable[[Tensor, Tensor | None], Tensor]:
            def loss(value: Tensor, labels: Tensor | None) -> Tensor:
                for stage in stages[k + 1 :]:
                    value, _ = stage.module(value, entered_state(stage))
                assert labels is not None
                return summed_cross_entropy(value, labels)

            return loss

        return [DecoupledInterface(Oracle(rest_after(k)), torch.optim.SGD([torch.zeros(1)])) for k in (0, 1)]

    def entered_state(stage: Stage) -> tuple[Tensor, ...]:
        return stage.module.initial_state(B) if stage.state is None else stage.state

    split = [p for stage in split_step(oracles) for p in stage.module.parameters()]
    model = recurrent_model()
    optimizer, state = sgd(model), model.initial_state(B)
    for inputs, labels in windows():
        output, after = model(inputs, state)
        state = tuple(s.detach() for s in after)
        optimizer.zero_grad()
        summed_cross_entropy(output, labels).div(labels.numel()).backward()
        optimizer.step()
    for a, b in zip(split, model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_sequential_keeps_the_names_of_its_layers() -> None:
    module = nn.Sequential()
    module.add_module("first", nn.Linear(2, 2))
    assert list(as_chain(module).state_dict()) == ["first.weight", "first.bias"]


def test_state_dict_continues_exactly() -> None:
    model, other = recurrent_model(), recurrent_model()
    one = run_in_time(model, ZeroInterface(), update=True)
    two = Stage(other, sgd(other), first=True)
    two.load_state_dict(one.state_dict())
    inputs, labels = windows(2)[0]
    for stage in (one, two):
        output, _ = stage.forward(inputs)
        stage.backward(LossInterface().gradient(0, output, labels))
        stage.update(labels.numel())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
