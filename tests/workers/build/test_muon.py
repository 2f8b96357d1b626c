"""optimizer=muon: Muon for the matrices of hidden layers, AdamW for the rest, in one optimizer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.lr_schedule import Linear, start_schedule
from dni.optimizers import AdjustKind, Muon
from dni.types import StagePlace
from tests.support.runs import assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch

SETTINGS: dict[str, Any] = {"learning_rate": 2e-2, "momentum": 0.9, "weight_decay": 0.1}


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))


def train(module: nn.Sequential, *optimizers: torch.optim.Optimizer, steps: int = 4) -> dict[str, Tensor]:
    x = torch.tensor([0, 3, 1, 4])
    for _ in range(steps):
        module(x).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("adjust", AdjustKind)
def test_each_parameter_gets_the_step_of_torchs_own_muon_or_adamw(adjust: AdjustKind) -> None:
    one, two = model(), model()
    joined = Muon(**SETTINGS, adjust=adjust).build_for(one, one.parameters(), StagePlace(1, 2))
    hidden = torch.optim.Muon([two[1].weight], 2e-2, 0.1, 0.9, adjust_lr_fn=adjust.name)
    rest = [two[0].weight, two[1].bias, two[3].weight, two[3].bias]
    assert_same(train(one, joined), train(two, hidden, torch.optim.AdamW(rest, 2e-2, weight_decay=0.1, fused=True)))


def test_muon_is_the_orthogonalised_momentum_by_hand() -> None:
    """One step: the momentum is 0.1 g, and Nesterov's is 0.1 g + 0.9 (0.1 g - g) + ...: all multiples of g."""
    weight = nn.Parameter(torch.zeros(6, 4))
    weight.grad = gradient = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    Muon(learning_rate=1.0, adjust=AdjustKind.match_rms_adamw).build([weight]).step()
    x = gradient.bfloat16().T
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    torch.testing.assert_close(weight.data, -0.2 * 6**0.5 * x.T.float(), atol=0.02, rtol=0.05)


def test_the_last_matrix_is_muons_in_a_stage_that_is_not_the_last() -> None:
    module = model()[1:]
    groups = Muon().build_for(module, module.parameters(), StagePlace(0, 2)).param_groups
    assert [len(group["params"]) for group in groups] == [2, 2]
    groups = Muon().build_for(module, module.parameters(), StagePlace(1, 2)).param_groups
    assert [len(group["params"]) for group in groups] == [1, 3]


@pytest.mark.parametrize(("layers", "sizes"), [([nn.Embedding(3, 2)], [1]), ([nn.Linear(2, 2, bias=False)], [1])])
def test_a_stage_may_have_parameters_of_one_kind_alone(layers: list[nn.Module], sizes: list[int]) -> None:
    module = nn.Sequential(*layers)
    optimizer = Muon().build_for(module, module.parameters(), StagePlace(0, 2))
    assert [len(group["params"]) for group in optimizer.param_groups] == sizes


def test_a_schedule_drives_both_groups() -> None:
    module = model()
    optimizer = Muon(learning_rate=1.0, other_learning_rate=0.1).build_for(
        module, module.parameters(), StagePlace(1, 2)
    )
    schedule = start_schedule(Linear(), optimizer, 4)
    assert schedule is not None
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.75, 0.075])


def test_a_saved_state_goes_on_in_another_one() -> None:
    one, two = model(), model()
    optimizer = Muon(**SETTINGS).build_for(one, one.parameters(), StagePlace(1, 2))
    train(one, optimizer)
    two.load_state_dict(one.state_dict())
    loaded = Muon(**SETTINGS).build_for(two, two.parameters(), StagePlace(1, 2))
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same(train(two, loaded), train(one, optimizer))


def run(stages: int, **changes: Any) -> Config:
    kind = {"kind": "muon", "learning_rate": 1e-2, "schedule": {"kind": "constant"}, "clip": None}
    return tiny(stages=stages, depth={"method": "backprop"}, optimizer=kind, **changes)


@pytest.mark.parametrize("stages", [2, 4])
def test_split_training_equals_the_unsplit_model(stages: int, tmp_path: Path) -> None:
    """The unsplit one knows its embedding and its scores, too."""
    config = run(stages)
    launch(config, tmp_path / "split")
    launch(run(1), tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "split", stages), parameters_of(tmp_path / "whole", 1))


@pytest.mark.long
def test_a_run_goes_on_in_other_stages(tmp_path: Path) -> None:
    launch(run(4, steps=9), tmp_path / "whole")
    launch(run(4, steps=3), tmp_path / "four")
    launch(run(2, steps=6, resume=str(tmp_path / "four")), tmp_path / "two")
    launch(run(3, steps=9, resume=str(tmp_path / "two")), tmp_path / "three")
    assert_same(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "whole", 4))
