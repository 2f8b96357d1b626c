"""A reconstruction of the input beside a local loss or a critic."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dni.errors import UsageError
from dni.interfaces.base import Interface
from dni.interfaces.local import LocalInterface
from dni.interfaces.reconstruction import ReconstructionInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.head_critic import HeadCritic
from dni.predictors.heads import norm_head
from dni.predictors.reconstruction import Reconstruction

CLASSES = 5


def window(seed: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Return input (B, T, 3), output (B, T, 4) and labels (B, T)."""
    generator = torch.Generator().manual_seed(seed)
    x, value = torch.randn(2, 6, 3, generator=generator), torch.randn(2, 6, 4, generator=generator)
    return x, value, torch.randint(CLASSES, (2, 6), generator=generator)


def drawn(model: Reconstruction) -> Reconstruction:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def pair() -> tuple[Interface, Interface]:
    torch.manual_seed(2)
    head = norm_head((4,), CLASSES)
    local = LocalInterface(4, classes=CLASSES, head=copy.deepcopy(head))
    return local, DecoupledInterface(HeadCritic(head, features=4, classes=CLASSES))


def answer(interface: Interface, step: int, x: Tensor, value: Tensor, labels: Tensor) -> Tensor:
    interface.take_input(x)
    (ready,) = interface.ready_steps(step, value, labels)
    assert ready.gradient is not None
    return ready.gradient


def test_the_added_gradient_is_that_of_the_formula() -> None:
    """By hand: weight 2 rows / |x|^2 (R v + c - x) R, with 12 rows."""
    x, value, labels = window()
    model = drawn(Reconstruction((4,), (3,)))
    matrix, constant = model.model.weight.detach().clone(), model.model.bias.detach().clone()
    plain, cut = pair()[0], ReconstructionInterface(pair()[0], model, weight=0.5)
    residual = value @ matrix.T + constant - x
    expected = 0.5 * 2 * 12 / x.pow(2).sum() * residual @ matrix
    found = answer(cut, 1, x, value, labels) - answer(plain, 1, x, value, labels)
    torch.testing.assert_close(found, expected)


def test_an_untrained_reconstruction_adds_nothing() -> None:
    x, value, labels = window()
    plain, cut = pair()[0], ReconstructionInterface(pair()[0], Reconstruction((4,), (3,)), weight=2.0)
    assert torch.equal(answer(cut, 1, x, value, labels), answer(plain, 1, x, value, labels))
    assert cut.model.model.weight.abs().sum() > 0


def test_a_local_loss_and_a_critic_get_the_same_gradient() -> None:
    cuts = [ReconstructionInterface(each, drawn(Reconstruction((4,), (3,))), weight=0.7) for each in pair()]
    for step in range(1, 6):
        x, value, labels = window(step)
        one, other = (answer(cut, step, x, value, labels) for cut in cuts)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_it_learns_the_linear_map_from_the_output_to_the_input() -> None:
    """x = v A: the error of a row goes from 1 to almost 0."""
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(4, 3, generator=generator)
    cut = ReconstructionInterface(pair()[0], model := Reconstruction((4,), (3,)), weight=1.0, learning_rate=0.05)
    errors = []
    for step in range(1, 300):
        _, value, labels = window(step)
        errors.append(model(value, value @ matrix)[0].item() / 12)
        answer(cut, step, value @ matrix, value, labels)
    assert errors[0] == pytest.approx(1.0)
    assert errors[-1] < 0.01


def test_symbols_are_one_hot_codes() -> None:
    _, value, symbols = window()
    model = drawn(Reconstruction((4,), (), CLASSES))
    codes = F.one_hot(symbols, CLASSES).float()
    error, rows = model(value, symbols)
    torch.testing.assert_close(error, (model.model(value) - codes).pow(2).sum())
    assert rows == 12


def test_feature_maps_are_averaged_to_the_size_of_the_output() -> None:
    generator = torch.Generator().manual_seed(4)
    x, value = torch.randn(2, 3, 8, 8, generator=generator), torch.randn(2, 4, 4, 4, generator=generator)
    model = drawn(Reconstruction((4, 4, 4), (3, 8, 8)))
    small = x.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean(dim=(3, 5))
    found = torch.einsum("oc,bchw->bohw", model.model.weight[..., 0, 0], value) + model.model.bias[:, None, None]
    error, rows = model(value, x)
    torch.testing.assert_close(error, 2 * (found - small).pow(2).sum() / small.pow(2).sum())
    assert rows == 2


def test_its_state_is_restored() -> None:
    cut, other = (ReconstructionInterface(pair()[0], Reconstruction((4,), (3,)), weight=1.0) for _ in range(2))
    for step in range(1, 4):
        answer(cut, step, *window(step))
    other.load_state_dict(cut.state_dict())
    assert torch.equal(answer(cut, 4, *window(4)), answer(other, 4, *window(4)))


def test_the_input_comes_first() -> None:
    with pytest.raises(UsageError, match="step 1: take_input comes before ready_steps"):
        ReconstructionInterface(pair()[0], Reconstruction((4,), (3,)), weight=1.0).ready_steps(1, *window()[1:])
