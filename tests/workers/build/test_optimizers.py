"""The optimizers of the settings, compared with their formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.optimizers import SGD, Adam, AdamW, NAdam
from dni.stages.base import Stage
from dni.types import StagePlace
from tests.support.commands import settings
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.launch.launcher import launch
from workers.storage import checkpoint

GRADIENTS, EPS = (0.5, -1.0, 2.0, 0.25), 1e-8
START, RATE, DECAY = 3.0, 0.1, 0.2
ONLY = StagePlace(0, 1)

OPTIMIZERS: dict[str, Any] = {"adam": Adam, "adamw": AdamW, "nadam": NAdam, "sgd": SGD}


def weights_after(kind: str, place: StagePlace = ONLY, **more: Any) -> list[float]:
    """Return a single weight after each of four steps with given gradients."""
    module, found = nn.Linear(1, 1, bias=False).double(), []
    nn.init.constant_(module.weight, START)
    optimizer = OPTIMIZERS[kind](learning_rate=RATE, **more).build_for(module, module.parameters(), place)
    for gradient in GRADIENTS:
        module.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimizer.step()
        found.append(module.weight.item())
    return found


def by_hand(step: Callable[[float, float, dict[str, float], int], float]) -> list[float]:
    """Return the weights of a formula: `step`(weight, gradient, memory, number from 1) -> next weight."""
    weight, memory, found = START, {"m": 0.0, "v": 0.0, "product": 1.0}, []
    for n, gradient in enumerate(GRADIENTS, 1):
        weight = step(weight, gradient, memory, n)
        found.append(weight)
    return found


def adam(w: float, g: float, memory: dict[str, float], n: int, b1: float = 0.9, b2: float = 0.999) -> float:
    memory["m"] = b1 * memory["m"] + (1 - b1) * g
    memory["v"] = b2 * memory["v"] + (1 - b2) * g * g
    return w - RATE * memory["m"] / (1 - b1**n) / ((memory["v"] / (1 - b2**n)) ** 0.5 + EPS)


def nadam(rising: Callable[[int], float], b1: float) -> Callable[..., float]:
    """Dozat 2016: `rising`(n) is the momentum mu of step n; b1 is the decay of the mean of the gradients."""

    def step(w: float, g: float, memory: dict[str, float], n: int) -> float:
        mu, following = rising(n), rising(n + 1)
        memory["product"] *= mu
        memory["m"] = b1 * memory["m"] + (1 - b1) * g
        memory["v"] = 0.999 * memory["v"] + 0.001 * g * g
        now = (1 - mu) * g / (1 - memory["product"])
        ahead = following * memory["m"] / (1 - memory["product"] * following)
        w -= RATE * DECAY * w
        return w - RATE * (now + ahead) / ((memory["v"] / (1 - 0.999**n)) ** 0.5 + EPS)

    return step


def sgd(nesterov: bool) -> Callable[..., float]:
    def step(w: float, g: float, memory: dict[str, float], n: int) -> float:
        g += DECAY * w
        memory["m"] = 0.9 * memory["m"] + g
        return w - RATE * (g + 0.9 * memory["m"] if nesterov else memory["m"])

    return step


@pytest.mark.parametrize(
    ("kind", "more", "step"),
    [
        ("adam", {}, adam),
        ("adam", {"beta1": 0.5, "beta2": 0.9}, lambda *now: adam(*now, 0.5, 0.9)),
        ("adam", {"weight_decay": DECAY}, lambda w, g, *rest: adam(w, g + DECAY * w, *rest)),
        ("adamw", {"weight_decay": DECAY}, lambda w, *rest: adam(w, *rest) - RATE * DECAY * w),
        ("nadam", {"weight_decay": DECAY, "beta1": 0.99}, nadam(lambda n: 0.99 * (1 - 0.96 ** (0.004 * n) / 2), 0.99)),
        ("nadam", {"weight_decay": DECAY, "momentum_decay": 0.0}, nadam(lambda n: 0.45, 0.9)),
        ("nadam", {"weight_decay": DECAY, "beta1": 0.99, "momentum_decay": 1000}, nadam(lambda n: 0.99, 0.99)),
        ("sgd", {"weight_decay": DECAY, "momentum": 0.9}, sgd(False)),
        ("sgd", {"weight_decay": DECAY, "momentum": 0.9, "nesterov": True}, sgd(True)),
    ],
)  # fmt: skip
def test_the_formula(kind: str, more: dict[str, Any], step: Callable[..., float]) -> None:
    assert weights_after(kind, **more) == pytest.approx(by_hand(step), rel=1e-6)  # NAdam holds its product in float32


def test_momentum_grows_with_the_delay_of_a_stage() -> None:
    """Four stages: 0.9 + 0.09 n / 4 with n = 3, 2, 1, 0 later stages; without `beta1_last` the same everywhere."""
    by_stage, plain = NAdam(beta1=0.99, beta1_last=0.9), NAdam(beta1=0.99)
    betas = [beta1_of(by_stage, StagePlace(k, 4)) for k in range(4)]
    assert betas == pytest.approx([0.9675, 0.945, 0.9225, 0.9])
    assert beta1_of(by_stage, ONLY) == 0.9
    assert {beta1_of(plain, StagePlace(k, 4)) for k in range(4)} == {0.99}


def beta1_of(settings: NAdam, place: StagePlace) -> float:
    module = nn.Linear(1, 1)
    (group,) = settings.build_for(module, module.parameters(), place).param_groups
    return float(group["betas"][0])


def test_the_formula_has_the_momentum_of_the_stage() -> None:
    """The second of four stages has 0.945."""
    found = weights_after("nadam", StagePlace(1, 4), weight_decay=DECAY, beta1=0.99, beta1_last=0.9, momentum_decay=1.0)
    assert found == pytest.approx(by_hand(nadam(lambda n: 0.945 * (1 - 0.96**n / 2), 0.945)), rel=1e-6)


@pytest.mark.parametrize("method", ["delayed", "local"])
@pytest.mark.long
def test_a_run_has_momentum_by_stage_and_resumes(method: str, tmp_path: Path) -> None:
    own = {"kind": "nadam", "beta1": 0.99, "beta1_last": 0.9}
    same: dict[str, Any] = {"stages": 3, "depth": {"method": method, "lag": 1}, "optimizer": own}
    launch(tiny(**same), tmp_path / "whole")
    launch(tiny(**same, checkpoint={"every": 4, "keep": 9}), tmp_path / "saved")
    launch(tiny(**same, resume=str(tmp_path / "saved"), resume_step=4), tmp_path / "part")
    for stage, beta1 in enumerate((0.96, 0.93, 0.9)):
        (group,) = checkpoint.load(tmp_path / "part", 10, stage)["stage"]["optimizer"]["param_groups"]
        assert group["betas"][0] == pytest.approx(beta1)
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))


def test_the_defaults_are_torchs_own() -> None:
    """Fused Adam, plain SGD, no weight decay."""
    made = {kind: OPTIMIZERS[kind]().build(nn.Linear(1, 1).parameters()) for kind in ("adam", "sgd")}
    plain = {
        "adam": torch.optim.Adam(nn.Linear(1, 1).parameters(), 4e-3, fused=True),
        "sgd": torch.optim.SGD(nn.Linear(1, 1).parameters(), 4e-3, momentum=0.0),
    }
    assert {kind: o.defaults for kind, o in made.items()} == {kind: o.defaults for kind, o in plain.items()}


@pytest.mark.parametrize("preset", ["adamw", "nesterov"])
def test_stages_with_a_preset_equal_the_unsplit_model(preset: str, tmp_path: Path) -> None:
    config = tiny(stages=3, depth={"method": "backprop"})
    config.optimizer = settings(f"optimizer={preset}").optimizer
    launch(config, tmp_path)
    assert_same(parameters_of(tmp_path, 3), plain_training(config))


def test_weights_decay_only_in_an_optimizer_step() -> None:
    """A window without any gradient makes no optimizer step."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, START)
    stage = Stage(module, AdamW(RATE, weight_decay=DECAY).build(module.parameters()))
    for back, expected in ((0.0, START), (1.0, START - RATE * DECAY * START - RATE)):
        stage.forward(torch.ones(1, 1))
        stage.backward(torch.full((1, 1), back))
        stage.update()
        assert module.weight.item() == pytest.approx(expected, abs=1e-5)
