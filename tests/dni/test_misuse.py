"""dni/misuse.py: what is wrong is said at once, and what to write; nothing learns silently nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni import (
    Chain,
    ConvRegressor,
    DecoupledInterface,
    DelayedInterface,
    Flattened,
    InputInterface,
    LocalInterface,
    LossInterface,
    Recurrent,
    Regressor,
    RetellingStage,
    SlowerInterface,
    SoftmaxCritic,
    Stage,
    StashingStage,
    TrueInterface,
    UsageError,
)
from dni.errors import DniError
from dni.interfaces.synthetic_input import symbol_inputs
from dni.lr_schedule import Constant, start_schedule
from dni.models import GRU, LSTM
from dni.recurrent import unpack

X, Y = torch.randn(4, 6), torch.tensor([0, 1, 2, 3])


def sgd(*modules: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for module in modules for p in module.parameters()], 0.1)


def stage(module: nn.Module | None = None, **settings: object) -> Stage:
    module = module or nn.Linear(6, 5)
    return Stage(module, sgd(module), **settings)  # type: ignore[arg-type]


def half(frozen: str) -> Stage:
    """A stage whose optimizer leaves one of two layers out."""
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
        lambda: Stage(one := nn.Linear(6, 5), sgd(one, nn.Linear(2, 2))), "updates 2 parameters that are not those of",
    ),
    "no parameters": (lambda: Stage(nn.ReLU(), sgd(nn.Linear(1, 1))), "ReLU has no parameters, so nothing to train"),
    "nothing trainable": (lambda: stage(nn.Linear(6, 5).requires_grad_(False)), "no parameter of Linear requires a"),
    "schedule of another optimizer": (another_schedule, "the schedule is that of another optimizer"),
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
    "no predictor": (lambda: DecoupledInterface(nn.Linear(5, 5)), "a Linear is no dni.Predictor"),  # type: ignore[arg-type]
    "memory": (lambda: DecoupledInterface(Regressor(5), memory=0), "memory=0 must be 1 or more"),
    "fits": (lambda: DecoupledInterface(Regressor(5), fits=0), "fits=0 must be 1 or more"),
    "warmup": (lambda: DecoupledInterface(Regressor(5), warmup=-1), "warmup=-1 must be 0 or more"),
    "edges": (lambda: DelayedInterface(0), "edges=0 must be 1 or more"),
    "every": (lambda: SlowerInterface(TrueInterface(), 0), "every=0 must be 1 or more"),
    "inputs' optimizer": (lambda: InputInterface(symbol_inputs(9, 5), sgd(nn.Linear(1, 1))), "not update 1 of the 1 "),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE_WRONG)
def test_what_is_made_wrong_is_refused_at_once(name: str) -> None:
    make, message = MADE_WRONG[name]
    with pytest.raises(UsageError, match=message):
        make()


def test_frozen_parameters_and_those_of_the_whole_module_are_right() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 5))
    module[0].requires_grad_(False)
    Stage(module, sgd(module))
    Stage(module, sgd(module[1]))
    stage(nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU()), LSTM(5, 5)))  # nothing with state lies inside
    assert issubclass(UsageError, DniError)
    assert issubclass(UsageError, ValueError)


class Bad(Recurrent):
    """Says that it has a state, and returns none."""

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
        (Bad(), r"layer '0' \(Bad\) must return \(output, state\), a state of 1 tensors"),
    ],
)
def test_layers_that_return_something_else_are_named(module: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stage(module).forward(X)


def test_a_stage_says_what_is_missing_or_in_the_wrong_order() -> None:
    one = stage()
    with pytest.raises(UsageError, match="forward takes a tensor, not a ndarray"):
        one.forward(X.numpy())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="step 0: backward comes once after each forward"):
        one.backward(torch.ones(4, 5))
    one.forward(X, step=7)
    with pytest.raises(UsageError, match="update comes after backward"):
        one.update(4)
    with pytest.raises(UsageError, match=r"backward through step 6, but the stage keeps step 7 alone: .*StashingStage"):
        one.backward(torch.ones(4, 5), step=6)
    one.forward(X)
    with pytest.raises(UsageError, match=r"a gradient of shape \(4, 3\) came back for an output of shape \(4, 5\)"):
        one.backward(torch.ones(4, 3))
    one.forward(X)
    one.backward(torch.ones(4, 5))
    with pytest.raises(UsageError, match="update divides by 0"):
        one.update(0)
    one.update(4)


def test_an_output_without_a_gradient_is_told() -> None:
    one = stage()
    with torch.no_grad():
        one.forward(X)
    with pytest.raises(UsageError, match=r"output \(torch.float32\) has no gradient: forward ran under torch.no_grad"):
        one.backward(torch.ones(4, 5))


def test_a_packed_state_of_another_size_is_told() -> None:
    one = stage(LSTM(6, 5))
    one.forward(torch.randn(4, 3, 6))
    with pytest.raises(UsageError, match="a packed state of 12 numbers a row, where 10 belong to this stage's state"):
        one.backward(None, torch.zeros(4, 12))
    assert [part.shape for part in unpack(torch.zeros(4, 5), GRU(6, 5).initial_state(4))] == [(1, 4, 5)]


@pytest.mark.parametrize("kind", [StashingStage, RetellingStage])
def test_windows_that_were_not_run_are_told(kind: type[Stage]) -> None:
    module = nn.Linear(6, 5)
    settings = {"mix": 0.5, "memory": 2} if kind is RetellingStage else {}
    one = kind(module, sgd(module), **settings)  # type: ignore[arg-type]
    one.forward(X, step=1)
    with pytest.raises(UsageError, match="no window of step 2"):
        one.backward(torch.ones(4, 5), step=2)


def test_evaluation_leaves_every_layer_in_the_mode_it_was_in() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    one = stage(module)
    one.module[1].eval()  # batch norm whose statistics stay
    one.evaluate(X)
    assert [layer.training for layer in one.module] == [True, False, True]
    with pytest.raises(RuntimeError):
        one.evaluate(torch.randn(4, 7))
    assert [layer.training for layer in one.module] == [True, False, True]  # not in evaluation mode for good


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
    "lookahead": (
        lambda: DecoupledInterface(Regressor(6, classes=4, lookahead=2)).gradient(0, X, Y),
        "1 labels for each row, and the predictor has lookahead=2",
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
def test_values_and_labels_that_do_not_fit_are_told(name: str) -> None:
    ask, message = MISFITS[name]
    with pytest.raises(UsageError, match=message):
        ask()


@pytest.mark.parametrize("cut", [TrueInterface(), DelayedInterface(), DecoupledInterface(Regressor(6))])
def test_a_target_that_is_none_is_told(cut: TrueInterface) -> None:
    """It comes from a stage past the first that gets integers, or was made with first=True."""
    later = stage(nn.Embedding(9, 5))
    later.forward(Y)
    with pytest.raises(UsageError, match=r"step 1 has no target gradient: .* made with first=True, or got integers"):
        cut.target(1, later.backward(torch.ones(4, 5)).activation)  # type: ignore[arg-type]


def test_a_target_of_another_shape_is_told_and_not_broadcast() -> None:
    cut = DecoupledInterface(Regressor(6))
    cut.gradient(2, X, None)
    with pytest.raises(UsageError, match=r"step 2: a target of shape \(6,\) for a value of shape \(4, 6\)"):
        cut.target(2, torch.ones(6))


def test_delayed_gradients_are_asked_for_otherwise() -> None:
    with pytest.raises(UsageError, match=r"for due in cut.due\(step, value, labels\)"):
        DelayedInterface().gradient(0, X, Y)


def test_an_error_that_is_not_understood_stays_torchs_own() -> None:
    class Broken(Regressor):
        def forward(self, value: Tensor, labels: Tensor | None) -> Tensor:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        DecoupledInterface(Broken(6)).gradient(0, X, None)
