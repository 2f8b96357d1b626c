"""Values, labels and targets that do not fit an interface: errors say what to write."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import (
    ConvRegressor,
    DecoupledInterface,
    DelayedInterface,
    Flattened,
    LocalInterface,
    LossInterface,
    Regressor,
    SoftmaxCritic,
    TrueInterface,
    UsageError,
)
from tests.support.stages.small import X, Y, stage

MISFITS: dict[str, tuple[Callable[[], object], str]] = {
    "features": (
        lambda: DecoupledInterface(SoftmaxCritic(64, classes=4)).gradient(3, X, Y),
        r"step 3: SoftmaxCritic is made for 64 features, and the value of shape \(4, 6\) has 6",
    ),
    "regressor": (lambda: DecoupledInterface(Regressor(5)).gradient(0, X, None), "Regressor is made for 5 features"),
    "flattened": (
        lambda: DecoupledInterface(Flattened(Regressor(5))).gradient(0, torch.randn(2, 3, 2, 2), None),
        "made for 5 features, .* has 12",
    ),
    "channels": (
        lambda: DecoupledInterface(ConvRegressor(5, hidden=2)).gradient(0, torch.randn(2, 3, 8, 8), None),
        "ConvRegressor is made for 5 features, .* has 3",
    ),
    "device": (
        lambda: DecoupledInterface(SoftmaxCritic(6, classes=4).to("meta")).gradient(0, X, Y),
        r"the value is on cpu and SoftmaxCritic on meta: call .to\('cpu'\) on it first",
    ),
    "element type": (
        lambda: DecoupledInterface(Regressor(6)).gradient(0, X.double(), None),
        r"the value is torch.float64 and Regressor torch.float32: call .to\(torch.float64\)",
    ),
    "integers": (lambda: DecoupledInterface(Regressor(6)).gradient(0, X.long(), None), "only floats have a gradient"),
    "classes": (
        lambda: DecoupledInterface(SoftmaxCritic(6, classes=3)).gradient(0, X, Y),
        "labels go from 0 to 3, and SoftmaxCritic has 3 classes",
    ),
    "one-hot labels": (
        lambda: DecoupledInterface(SoftmaxCritic(6, classes=4)).gradient(0, X, Y.float()),
        r"labels must be whole numbers from 0 to 3, torch.int64, not torch.float32",
    ),
    "future_labels": (
        lambda: DecoupledInterface(Regressor(6, classes=4, future_labels=2)).gradient(0, X, Y),
        "1 labels in each row, but the predictor has future_labels=2",
    ),
    "loss: classes": (
        lambda: LossInterface().gradient(5, X[:, :3], Y),
        "step 5: labels go from 0 to 3, and the output",
    ),
    "loss: rows": (lambda: LossInterface().gradient(0, X, Y[:3]), r"labels \(3,\) for an output of shape \(4, 6\)"),
    "loss: floats": (lambda: LossInterface().gradient(0, X, Y.float()), "torch.int64, not torch.float32"),
    "local loss": (lambda: LocalInterface(5, classes=4).gradient(0, X, Y), "Sequential is made for 5 features"),
}


@pytest.mark.parametrize("name", MISFITS)
def test_values_and_labels_that_do_not_fit_are_refused(name: str) -> None:
    ask, message = MISFITS[name]
    with pytest.raises(UsageError, match=message):
        ask()


@pytest.mark.parametrize("cut", [TrueInterface(), DelayedInterface(), DecoupledInterface(Regressor(6))])
def test_target_none_is_refused(cut: TrueInterface) -> None:
    """A later stage has no activation gradient if its inputs are integers, or with first=True."""
    later = stage(nn.Embedding(9, 5))
    later.forward(Y)
    with pytest.raises(UsageError, match=r"step 1 has no target gradient: .* first=True, or its input is integers"):
        cut.target(1, later.backward(torch.ones(4, 5)).activation)  # type: ignore[arg-type]


def test_target_of_another_shape_is_refused_and_not_broadcast() -> None:
    cut = DecoupledInterface(Regressor(6))
    cut.gradient(2, X, None)
    with pytest.raises(UsageError, match=r"step 2: a target of shape \(6,\) for a value of shape \(4, 6\)"):
        cut.target(2, torch.ones(6))


def test_delayed_interface_refuses_gradient() -> None:
    with pytest.raises(UsageError, match=r"for ready in cut.ready_steps\(step, value, labels\)"):
        DelayedInterface().gradient(0, X, Y)


def test_unexplained_torch_errors_are_raised_unchanged() -> None:
    class Broken(Regressor):
        def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        DecoupledInterface(Broken(6)).gradient(0, X, None)
