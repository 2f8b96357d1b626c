"""depth=corrected: a synthetic gradient at once, and a share of its error when the target arrives."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dni.interfaces.base import Correction
from dni.interfaces.corrected import CorrectedInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.predictors.base import Predictor
from dni.predictors.critic import SoftmaxCritic
from dni.stages.correcting import CorrectingStage
from tests.support.runs import assert_close, assert_same, parameters_of, plain_training, tiny
from tests.workers.runtime.test_worker import STEPS, Line, late, lost, twice
from workers.config.settings import Config
from workers.launch.launcher import launch


class Constant(Predictor):
    """Predicts the same gradient for every value, and never learns."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
        return torch.full_like(value, self.value)


def corrected(stages: int = 3, lag: int | None = 1, **more: Any) -> Config:
    depth = {"method": "corrected", "max_in_flight": 4, "lag": lag, **more.pop("depth", {})}
    critic = {"warmup": 2, "eager_loss": True}
    return tiny(stages=stages, depth=depth, predictor={"depth": critic}, **more)


def exact(stages: int, **more: Any) -> dict[str, Any]:
    """Return the settings with which all residuals of a step add up to the true gradient."""
    orders = {"correction_lambda": 1.0, "orders": stages - 1} if stages > 2 else {}
    return {"beta": 1.0, **orders, **more}


@pytest.mark.parametrize(("value", "used", "residual"), [(2.0, 3.0, 0.25 * (5.0 - 3.0)), (2.0, 0.0, 0.25 * 5.0)])
def test_the_residual_is_the_target_minus_what_was_used(value: float, used: float, residual: float) -> None:
    cut = CorrectedInterface(Constant(used), beta=0.25, lag=1)
    x, labels = torch.full((1, 1), value), torch.zeros(1, dtype=torch.long)
    assert cut.gradient(1, x, labels).item() == used
    assert cut.corrections(1) == []
    cut.target(1, torch.full((1, 1), 5.0))
    cut.gradient(2, x, labels)
    [found] = cut.corrections(2)
    assert (found.step, found.gradient.item(), found.reply) == (1, residual, 0.0)
    assert cut.corrections(2) == []


def test_weights_follow_age_labels_and_order() -> None:
    """beta (1 + 3)^-1/2 = beta / 2; twice the labels now; the share sent on is lambda times the residual itself."""
    cut = CorrectedInterface(Constant(1.0), beta=0.5, decay=0.5, lambda_=0.75, orders=2, history=9)
    for step, rows in ((1, 3), (2, 3), (3, 3), (4, 6)):
        if step == 4:
            cut.target(1, torch.full((3, 1), 9.0))
            cut.target(1, torch.full((3, 1), 16.0))
            cut.target(1, torch.full((3, 1), 99.0))  # a third order is not used
        cut.gradient(step, torch.zeros(rows, 1), torch.zeros(rows, dtype=torch.long))
    first, second = cut.corrections(4)
    assert torch.equal(first.gradient, torch.full((3, 1), 0.5 / 2 * 2 * (9.0 - 1.0)))
    assert torch.equal(first.reply * first.gradient, torch.full((3, 1), 0.75 * 8.0))
    assert second == Correction(1, second.gradient, 0.0)
    assert torch.equal(second.gradient, torch.full((3, 1), 0.5 / 2 * 2 * 16.0))


def test_only_every_nth_step_is_corrected_and_old_ones_are_forgotten() -> None:
    cut = CorrectedInterface(Constant(0.0), beta=1.0, every=2, history=4)
    found = []
    for step in range(1, 9):
        if step == 8:
            for earlier in (2, 3, 4, 6):
                cut.target(earlier, torch.ones(1, 1))
        cut.gradient(step, torch.zeros(1, 1), torch.zeros(1, dtype=torch.long))
        found += [one.step for one in cut.corrections(step)]
    assert found == [6]  # 2 and 4 are more than three steps old, 3 is odd


def test_a_stage_that_warms_up_is_not_corrected() -> None:
    cut = CorrectedInterface(SoftmaxCritic(1, classes=2), beta=1.0, warmup=2)
    x, labels = torch.ones(1, 1), torch.zeros(1, dtype=torch.long)
    moved, found = [], []
    for step in range(1, 6):
        if step > 1:
            cut.target(step - 1, torch.ones(1, 1))
        cut.gradient(step, x, labels)
        found += [one.step for one in cut.corrections(step)]
        moved += [step] if cut.ready else []
    assert moved == [3, 4, 5]
    assert found == [3, 4]


def test_beta_zero_gives_the_gradients_of_the_same_predictor_without_corrections() -> None:
    torch.manual_seed(0)
    critic = SoftmaxCritic(3, classes=4, eager_loss=True)
    cuts = [CorrectedInterface(critic, beta=0.0, lag=2), DecoupledInterface(copy.deepcopy(critic))]
    values, targets = torch.randn(9, 5, 3), torch.randn(9, 5, 3)
    labels = torch.randint(4, (9, 5))
    for step in range(9):
        if step >= 2:  # the loop gives it before the value if `targets_first`, otherwise after the update
            cuts[0].target(step - 2, targets[step - 2])
        answers = [cut.gradient(step, values[step], labels[step]) for cut in cuts]
        assert torch.equal(*answers)
        assert cuts[0].corrections(step) == []
        if step >= 2:
            cuts[1].target(step - 2, targets[step - 2])
    first, second = (cut.predictor.state_dict() for cut in cuts)
    assert_same(first, second)


@pytest.mark.parametrize("lag", [1, 3])
def test_beta_zero_is_synthetic_bit_for_bit(lag: int, tmp_path: Path) -> None:
    config = corrected(lag=lag, depth={"beta": 0.0})
    launch(config, tmp_path / "corrected")
    synthetic = tiny(
        stages=3,
        depth={"method": "synthetic", "max_in_flight": 4, "lag": lag},
        predictor={"depth": {"warmup": 2, "eager_loss": True}},
    )
    launch(synthetic, tmp_path / "synthetic")
    assert_same(parameters_of(tmp_path / "corrected", 3), parameters_of(tmp_path / "synthetic", 3))


@pytest.mark.parametrize("stash", [True, False])
@pytest.mark.parametrize("model", ["lstm", "mlp"])
@pytest.mark.parametrize("stages", [2, 3])
def test_without_delay_all_residuals_make_backpropagation(stages: int, model: str, stash: bool, tmp_path: Path) -> None:
    config = corrected(stages, lag=0, depth=exact(stages, stash=stash), model={"kind": model, "layers": 3})
    config.predictor.depth.warmup = 0
    launch(config, tmp_path)
    assert_close(parameters_of(tmp_path, stages), plain_training(config), within=2e-5)


@pytest.mark.parametrize("stash", [True, False])
@pytest.mark.parametrize(("stages", "lag"), [(2, 3), (3, 1)])
def test_a_predictor_of_zero_makes_delayed_gradients(stages: int, lag: int, stash: bool, tmp_path: Path) -> None:
    zero = {"predictor": {"depth": {"kind": "linear", "learning_rate": 0.0, "warmup": 0}}}
    depth = {"max_in_flight": 4, "lag": lag, "stash": stash}
    launch(tiny(stages=stages, depth={"method": "delayed", **depth}), tmp_path / "delayed")
    all_orders = {"method": "corrected", **depth, **exact(stages)}
    launch(tiny(stages=stages, depth=all_orders, **zero), tmp_path / "corrected")
    assert_same(parameters_of(tmp_path / "delayed", stages), parameters_of(tmp_path / "corrected", stages))


@pytest.mark.parametrize("stash", [True, False])
def test_with_a_lag_a_run_does_not_depend_on_arrival_or_interruption(stash: bool, tmp_path: Path) -> None:
    saving = {"every": 4, "keep": 9}
    ways: dict[str, dict[str, Any]] = {
        "threads": {},
        "late": {"transport": {"kind": "grpc", "delay_ms": 3}, "evaluate": {"probe": 3}},
        "saved": {"checkpoint": saving},
        "part": {"checkpoint": saving, "resume": str(tmp_path / "saved"), "resume_step": 4},
    }
    depth = {"stash": stash, "correction_lambda": 0.5, "orders": 2, "beta_decay": 0.5, "correct_every": 1 + stash}
    for way, changes in ways.items():
        launch(corrected(lag=2, depth=depth, optimizer={"accumulate": 2}, **changes), tmp_path / way)
        assert_same(parameters_of(tmp_path / "threads", 3), parameters_of(tmp_path / way, 3))


def line(tmp_path: Path, lag: int | None, faults: Any = (), **depth: Any) -> Line:
    depth = {"method": "corrected", "max_in_flight": 4, "lag": lag, "correction_lambda": 0.5, "orders": 2, **depth}
    return Line(tmp_path, faults, depth=depth, evaluate={"every": 5, "windows": 3, "probe": 4})


@pytest.mark.parametrize("lag", [None, 1])
@pytest.mark.parametrize("faults", [[lost(2), lost(6)], [late(3, 1), twice(7)], [twice(1), lost(STEPS - 1)]])
def test_run_ends_despite_lost_and_late_gradients(faults: Any, lag: int | None, tmp_path: Path) -> None:
    faulty = line(tmp_path, lag, faults)
    faulty.run()
    assert faulty.in_flight() == [0, 0]


@pytest.mark.parametrize(("lag", "most"), [(None, 2 * 4 + 1), (2, 2 * 2 + 1)])
def test_a_stage_keeps_a_limited_number_of_windows(lag: int | None, most: int, tmp_path: Path) -> None:
    free, held = line(tmp_path, lag), []
    for worker in free.workers[:2]:
        stage = worker.stage
        assert isinstance(stage, CorrectingStage)

        def watched(*args: Any, _stage: CorrectingStage = stage, _update: Any = stage.update, **more: Any) -> None:
            held.append(len(_stage.state_dict()["held"]))
            _update(*args, **more)

        stage.update = watched  # type: ignore[method-assign]
    free.run()
    assert max(held) <= most if lag is None else max(held) == most


def test_a_run_with_a_predictor_in_time_too(tmp_path: Path) -> None:
    """Corrections have no gradient of the state, and teach the cut in time nothing."""
    config = corrected(time={"method": "synthetic"})
    config.predictor.time.hidden, config.predictor.time.future_labels = 8, 2
    summary = launch(config, tmp_path).summary
    assert 0 < summary["valid"]["bits_per_label"] < 8


def test_the_fit_of_a_critic_that_no_target_teaches_is_that_of_what_was_used() -> None:
    """Two rows of one number: prediction 1, targets 2 and 4, so the mean squared distance is (1 + 9) / 2."""
    predictor = Constant(1.0)
    predictor.fits = False
    cut = CorrectedInterface(predictor, lag=0)
    cut.target(1, torch.tensor([[2.0], [4.0]]))
    cut.gradient(1, torch.zeros(2, 1), torch.zeros(2, dtype=torch.long))
    means = cut.means()
    assert means["predictor_loss"] == 5.0
    assert means["cosine"] == pytest.approx((2 + 4) / (2 * 20) ** 0.5)
    assert cut.updates == 1
