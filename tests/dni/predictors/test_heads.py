"""Heads: models of the labels at a cut, for critics and for local losses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.local import LocalInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.models import Cnn, Lstm, Resnet, Transformer
from dni.models.base import Model
from dni.predictors.head_critic import HeadCritic
from dni.predictors.head_settings import BlockHead, HeadSettings, NormHead
from dni.predictors.settings import PredictorContext
from tests.support.runs import assert_close, assert_same, parameters_of, tiny
from workers.launch.launcher import launch
from workers.storage import checkpoint

CLASSES = 5
POOLED = ["AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Linear"]
TRANSFORMER = Transformer(units=4, layers=2, heads=2, memory=3)


def head(settings: HeadSettings, model: Model, shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    context = PredictorContext(0, 2, 0, block=model.block)
    made = settings.head(shape, CLASSES, context)
    assert made is not None
    return made


def block_critic(**settings: Any) -> HeadCritic:
    made = head(BlockHead(), TRANSFORMER, (4,)).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return HeadCritic(made, features=4, classes=CLASSES, **settings)


def values(*shape: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return value, torch.randint(CLASSES, shape[:-1], generator=generator)


def test_the_gradient_of_a_block_head_is_that_of_finite_differences() -> None:
    critic, (value, labels) = block_critic(), values(2, 6, 4)
    found, numbers, step = critic(value, labels), torch.zeros_like(value), 1e-6
    for place in range(value.numel()):
        ends = []
        for sign in (1, -1):
            moved = value.clone()
            moved.view(-1)[place] += sign * step
            ends.append(summed_cross_entropy(critic.head(moved), labels).item())
        numbers.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close(found, numbers, rtol=1e-6, atol=1e-7)


def test_a_block_head_is_causal_and_sees_earlier_steps() -> None:
    """The score of a step depends on its value and on the three before it (`memory`), and on no later one."""
    critic, (value, _) = block_critic(), values(1, 8, 4)
    leaf = value.clone().requires_grad_()
    critic.head(leaf)[0, 5].sum().backward()
    assert leaf.grad is not None
    assert leaf.grad[0].abs().sum(dim=-1).bool().tolist() == [step in (2, 3, 4, 5) for step in range(8)]


@pytest.mark.parametrize("eager", [True, False])
def test_fit_is_the_loss_and_the_distance_to_the_target(eager: bool) -> None:
    """By hand: mean loss of 12 rows, unless it is learned at once, and 0.5 times the mean squared distance of rows."""
    critic, (value, labels) = block_critic(gradient_weight=0.5, eager_loss=eager), values(2, 6, 4)
    target = values(2, 6, 4, seed=2)[0]
    distance = (critic(value, labels) - target).pow(2).sum(dim=-1).mean()
    loss = nn.functional.cross_entropy(critic.head(value).flatten(0, 1), labels.flatten())
    expected = 0.5 * distance + (0 if eager else loss)
    fit = critic.fit(value, labels, target)
    torch.testing.assert_close(fit.loss, expected)
    known = critic.known(value, labels)
    assert (known is not None) == eager
    fit.loss.backward()
    attention = next(critic.head.parameters())
    assert attention.grad is not None
    assert attention.grad.abs().sum() > 0  # second derivatives reach the block


def test_one_pass_gives_the_gradients_of_two() -> None:
    critic = block_critic()
    value, labels = values(2, 5, 4)
    gradient = critic.learn(value, labels)
    own = [each.grad for each in critic.parameters()]
    critic.zero_grad()
    loss = critic.known(value, labels)
    assert gradient is not None
    assert loss is not None
    loss.backward()
    torch.testing.assert_close(gradient, critic(value, labels), rtol=1e-12, atol=1e-14)
    for mine, parameter in zip(own, critic.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-10, atol=1e-14)
    assert block_critic(eager_loss=False).learn(value, labels) is None


def test_without_a_gradient_weight_a_target_teaches_nothing() -> None:
    critic, (value, labels) = block_critic(), values(2, 6, 4)
    cut = DecoupledInterface(critic)
    cut.gradient(1, value, labels)
    after_its_loss = copy.deepcopy(critic.state_dict())
    cut.target(1, torch.randn_like(value))
    assert_same(critic.state_dict(), after_its_loss)
    assert cut.updates == 1


def test_a_critic_without_targets_is_a_local_loss_with_the_same_head() -> None:
    critic = block_critic()
    local = LocalInterface(4, classes=CLASSES, head=copy.deepcopy(critic.head))
    cut = DecoupledInterface(critic)
    for step in range(5):
        value, labels = values(2, 6, 4, seed=step)
        torch.testing.assert_close(cut.gradient(step, value, labels), local.gradient(step, value, labels))
    scores = [made(values(2, 6, 4, seed=9)[0]) for made in (critic.head, local.head)]  # a shift of all keys is noise
    torch.testing.assert_close(*scores, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("settings", "model", "shape", "kinds"),
    [
        (NormHead(), Lstm(units=6), (6,), ["LayerNorm", "Linear"]),
        (NormHead(hidden=8), TRANSFORMER, (6,), ["LayerNorm", "Linear", "GELU", "Linear"]),
        (BlockHead(), Lstm(units=6), (6,), ["LayerNorm", "Linear", "GELU", "Linear"]),
        (BlockHead(blocks=2), TRANSFORMER, (6,), ["Sequential", "LayerNorm", "Linear"]),
        (BlockHead(), Cnn(units=6), (6, 5, 7), ["Sequential", "AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Linear"]),
        (
            BlockHead(),
            Resnet(units=6),
            (6, 2, 2),
            ["Sequential", "AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Linear"],
        ),
        (NormHead(), Cnn(units=6), (6, 5, 7), ["AdaptiveAvgPool2d", "Flatten", "LayerNorm", "Linear"]),
    ],
)
def test_heads_have_blocks_of_the_models_own_kind(
    settings: HeadSettings, model: Model, shape: tuple[int, ...], kinds: list[str]
) -> None:
    made = head(settings, model, shape)
    assert [type(part).__name__ for part in made.children()] == kinds
    time = () if len(shape) > 1 else (4,)
    assert made(torch.randn(3, *time, *shape)).shape == (3, *time, CLASSES)


@pytest.mark.parametrize("kind", ["norm_head", "block_head"])
@pytest.mark.parametrize("depth", ["synthetic", "corrected", "local"])
def test_a_run_trains_the_same_head_in_every_method(depth: str, kind: str, tmp_path: Path) -> None:
    config = tiny(
        steps=6, model={"kind": "transformer", "heads": 2, "memory": 4}, depth={"method": depth, "lag": 1},
        predictor={"depth": {"kind": kind}},
    )  # fmt: skip
    summary = launch(config, tmp_path).summary
    assert 0 < summary["valid"]["bits_per_label"] < 8
    saved = checkpoint.load(tmp_path, 6, 0)["depth"]
    weights = saved["head"] if depth == "local" else saved["predictor"]
    names = {name.removeprefix("head.") for name in weights}
    own = head(BlockHead() if kind == "block_head" else NormHead(), config.model, (8,))
    assert names == set(own.state_dict())


def test_corrected_learns_with_a_block_head_as_local_does_if_beta_is_zero(tmp_path: Path) -> None:
    """A critic that no target teaches is a local loss; in float32 the two sum in another order."""
    for depth in ({"method": "local"}, {"method": "corrected", "beta": 0.0, "lag": 1}):
        model = {"kind": "transformer", "heads": 2, "memory": 4}
        config = tiny(steps=6, model=model, depth=depth, predictor={"depth": {"kind": "block_head"}})
        launch(config, tmp_path / depth["method"])
    assert_close(*(parameters_of(tmp_path / method, 2) for method in ("local", "corrected")), within=1e-4)
