"""Calls of a stage in the wrong order, or with wrong arguments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni import Chain, Recurrent, Stage, StashingStage, UsageError
from dni.experimental.lambda_return_stage import LambdaReturnStage
from dni.models import GRU, LSTM
from dni.recurrent import unpack
from tests.support.stages.small import X, sgd, stage


class Bad(Recurrent):
    """A recurrent layer that returns no state."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 5)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return (torch.zeros(batch, 5),)

    def forward(self, x: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.LSTM(6, 5), r"layer '0' \(LSTM\) returns a tuple, .* write dni.models.LSTM, which carries its state"),
        (nn.Sequential(nn.GRU(6, 5), nn.Linear(5, 5)), r"layer '0' \(GRU\) returns a tuple, .* dni.models.GRU"),
        (nn.Sequential(nn.Linear(6, 6), nn.RNN(6, 5)), r"layer '1' \(RNN\) returns a tuple, .* a dni.Recurrent around"),
        (nn.Sequential(Chain(nn.Linear(6, 5))), r"layer '0' \(Chain\) returns a tuple, .* a module around it that ret"),
        (Bad(), r"layer '0' \(Bad\) must return \(output, state\) with a state of 1 tensors"),
    ],
)
def test_layers_with_wrong_results_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stage(module).forward(X)


def test_stage_refuses_calls_in_the_wrong_order() -> None:
    one = stage()
    with pytest.raises(UsageError, match="forward takes a tensor or a dict of named tensors, not a ndarray"):
        one.forward(X.numpy())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="step 0: backward comes once after each forward"):
        one.backward(torch.ones(4, 5))
    one.forward(X, step=7)
    with pytest.raises(UsageError, match="update comes after backward"):
        one.update(4)
    with pytest.raises(UsageError, match=r"backward through step 6, but the stage keeps only step 7: .*StashingStage"):
        one.backward(torch.ones(4, 5), step=6)
    one.forward(X)
    with pytest.raises(UsageError, match=r"a gradient of shape \(4, 3\) for an output of shape \(4, 5\)"):
        one.backward(torch.ones(4, 3))
    one.forward(X)
    one.backward(torch.ones(4, 5))
    with pytest.raises(UsageError, match="update divides by 0"):
        one.update(0)
    one.update(4)


def test_output_without_a_gradient_is_refused() -> None:
    one = stage()
    with torch.no_grad():
        one.forward(X)
    with pytest.raises(UsageError, match=r"output \(torch.float32\) has no gradient: forward ran under torch.no_grad"):
        one.backward(torch.ones(4, 5))


def test_packed_state_of_another_size_is_refused() -> None:
    one = stage(LSTM(6, 5))
    one.forward(torch.randn(4, 3, 6))
    with pytest.raises(UsageError, match="the packed state has 12 numbers a row, and this stage's state has 10"):
        one.backward(None, torch.zeros(4, 12))
    assert [part.shape for part in unpack(torch.zeros(4, 5), GRU(6, 5).initial_state(4))] == [(1, 4, 5)]


@pytest.mark.parametrize("kind", [StashingStage, LambdaReturnStage])
def test_backward_without_a_forward_pass_is_refused(kind: type[Stage]) -> None:
    module = nn.Linear(6, 5)
    settings = {"mix": 0.5, "memory": 2} if kind is LambdaReturnStage else {}
    one = kind(module, sgd(module), **settings)  # type: ignore[arg-type]
    one.forward(X, step=1)
    with pytest.raises(UsageError, match="no window of step 2"):
        one.backward(torch.ones(4, 5), step=2)


def test_evaluation_leaves_every_layer_in_the_mode_it_was_in() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    one = stage(module)
    one.module[1].eval()  # batch norm with frozen statistics
    one.evaluate(X)
    assert [layer.training for layer in one.module] == [True, False, True]
    with pytest.raises(RuntimeError):
        one.evaluate(torch.randn(4, 7))
    assert [layer.training for layer in one.module] == [True, False, True]  # training mode again, despite the error
