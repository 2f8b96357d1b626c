"""Constructors refuse stages, predictors and interfaces that would learn nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from dni import (
    DecoupledInterface,
    DelayedInterface,
    Regressor,
    Stage,
    TrueInterface,
    UsageError,
)
from dni.errors import DniError
from dni.experimental.multi_rate import MultiRateInterface
from dni.experimental.synthetic_input_interface import SyntheticInputInterface, symbol_inputs
from dni.lr_schedule import Constant, start_schedule
from dni.models import LSTM
from tests.support.stages.small import sgd, stage


def half(frozen: str) -> Stage:
    """Return a stage whose optimizer updates only one of two layers."""
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5))
    return Stage(module, sgd(module[int(frozen)]))


def another_schedule() -> Stage:
    module = nn.Linear(6, 5)
    return Stage(module, sgd(module), schedule=start_schedule(Constant(warmup_steps=1), sgd(module), 1))


MADE_WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "optimizer of another module": (
        lambda: Stage(nn.Linear(6, 5), sgd(nn.Linear(6, 5))),
        r"does not update 2 of the 2 trainable parameters of Linear \(bias, weight\), .* SGD\(module.parameters\(\)",
    ),
    "optimizer of a part": (lambda: half("0"), r"does not update 2 of the 4 .* \(1.bias, 1.weight\)"),
    "one optimizer for all": (
        lambda: Stage(one := nn.Linear(6, 5), sgd(one, nn.Linear(2, 2))), "updates 2 parameters that do not belong to",
    ),
    "no parameters": (lambda: Stage(nn.ReLU(), sgd(nn.Linear(1, 1))), "ReLU has no parameters to train"),
    "nothing trainable": (lambda: stage(nn.Linear(6, 5).requires_grad_(False)), "no parameter of Linear requires a"),
    "schedule of another optimizer": (another_schedule, "the schedule belongs to another optimizer"),
    "module elsewhere": (
        lambda: stage(nn.Linear(6, 5, device="meta")), r"weight is on meta, and the stage on cpu: .*device='meta'",
    ),
    "layers with state inside": (
        lambda: stage(nn.Sequential(nn.Sequential(LSTM(6, 5)), nn.Linear(5, 5))), r"layer '0' is a Sequential with lay",
    ),
    "accumulate": (lambda: stage(accumulate=0), "accumulate=0 must be 1 or more"),
    "chunk": (lambda: stage(chunk=0), "chunk=0 must be 1 or more"),
    "predictor's optimizer": (
        lambda: DecoupledInterface(Regressor(5), sgd(Regressor(5))), "2 of the 2 trainable parameters of Regressor",
    ),
    "no predictor": (lambda: DecoupledInterface(nn.Linear(5, 5)), "a Linear is not a dni.Predictor"),  # type: ignore[arg-type]
    "memory": (lambda: DecoupledInterface(Regressor(5), memory=0), "memory=0 must be 1 or more"),
    "steps_per_target": (
        lambda: DecoupledInterface(Regressor(5), steps_per_target=0),
        "steps_per_target=0 must be 1 or more",
    ),
    "warmup": (lambda: DecoupledInterface(Regressor(5), warmup=-1), "warmup=-1 must be 0 or more"),
    "edges": (lambda: DelayedInterface(0), "edges=0 must be 1 or more"),
    "every": (lambda: MultiRateInterface(TrueInterface(), 0), "every=0 must be 1 or more"),
    "inputs' optimizer": (
        lambda: SyntheticInputInterface(symbol_inputs(9, 5), sgd(nn.Linear(1, 1))), "not update 1 of the 1 ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE_WRONG)
def test_constructors_refuse_wrong_arguments(name: str) -> None:
    make, message = MADE_WRONG[name]
    with pytest.raises(UsageError, match=message):
        make()


def test_frozen_parameters_may_be_left_out_of_the_optimizer() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5))
    module[0].requires_grad_(False)
    Stage(module, sgd(module))
    Stage(module, sgd(module[1]))
    stage(nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), LSTM(5, 5)))  # the inner layers carry no state
    assert issubclass(UsageError, DniError)
    assert issubclass(UsageError, ValueError)
