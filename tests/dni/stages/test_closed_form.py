"""Closed forms of the derivatives of a layer's state, against the traces that autograd gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.models import LRU, MinGRU, MinLSTM
from dni.recurrent import Chain, Recurrent, Slopes
from dni.stages.online import OnlineStage
from dni.types import State
from tests.support.stages.optimizer import sgd
from tests.support.stages.windows_of_stages import FutureOf, of_whole, of_windows

B, T, D, H = 3, 4, 5, 6


class PlainGRU(MinGRU):
    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes | None:  # type: ignore[override]
        return None


class PlainLSTM(MinLSTM):
    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes | None:  # type: ignore[override]
        return None


class PlainLRU(LRU):
    def slopes(self, outputs: Sequence[Tensor], state: State) -> Slopes | None:  # type: ignore[override]
        return None


Kind = Callable[[int, int], Recurrent]
PAIRS: dict[str, tuple[Kind, Kind]] = {
    "mingru": (MinGRU, PlainGRU),
    "minlstm": (MinLSTM, PlainLSTM),
    "lru": (LRU, PlainLRU),
}
RESETS = [None, None, torch.tensor([True, False, True]), None, None]


def windows(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(B, length, D, dtype=torch.float64, generator=generator) for _ in RESETS]


def chain(kind: Kind) -> Chain:
    torch.manual_seed(3)
    layer = kind(D, H)
    width = layer(torch.zeros(1, 1, D))[0].shape[-1]
    return Chain(nn.Linear(D, D), layer, nn.Linear(width, D), nn.Tanh()).double()


def assert_equal(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    torch.testing.assert_close([*found], [*expected], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("length", [1, T])
def test_gradients_and_traces_are_those_of_autograd(kind: str, length: int) -> None:
    stages = []
    for made in PAIRS[kind]:
        module = chain(made)
        stage = OnlineStage(module, sgd(module))
        future = FutureOf([module], 0, windows(length), RESETS)
        stages.append((stage, of_windows([stage], windows(length), RESETS, [future])))
    (closed, found), (plain, expected) = stages
    assert (closed.layers[0].closed, plain.layers[0].closed) == (True, False)
    assert_equal(found, expected)
    torch.testing.assert_close(closed.traces, plain.traces, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", PAIRS)
def test_saved_traces_of_autograd_go_on_in_closed_form(kind: str) -> None:
    first, again = (OnlineStage(module, sgd(module)) for module in map(chain, reversed(PAIRS[kind])))
    of_windows([first], windows(T)[:2], RESETS[:2])
    again.load_state_dict(first.state_dict())
    torch.testing.assert_close(again.traces, first.traces, rtol=1e-10, atol=1e-11)
    for p in [*first.module.parameters(), *again.module.parameters()]:
        p.grad = None
    found, expected = (of_windows([stage], windows(T)[2:], RESETS[2:]) for stage in (again, first))
    assert_equal(found, expected)


@pytest.mark.parametrize("name", ["nu", "drive"])
def test_weights_that_are_frozen_have_no_traces(name: str) -> None:
    stages = []
    for made in PAIRS["lru"]:
        module = chain(made)
        module.get_submodule(f"1.{name}").requires_grad_(False)
        stage = OnlineStage(module, sgd(module))
        stages.append((stage, of_windows([stage], windows(T), RESETS)))
    (closed, found), (plain, expected) = stages
    assert_equal(found, expected)
    assert closed.traces.keys() == plain.traces.keys()
    assert not any(key.startswith(f"1.{name}") for key in closed.traces)


def test_biases_alone_have_traces() -> None:
    stages = []
    for made in PAIRS["mingru"]:
        module = chain(made)
        for part in ("gate", "candidate"):
            module.get_submodule(f"1.{part}").weight.requires_grad_(False)
        stage = OnlineStage(module, sgd(module))
        stages.append((stage, of_windows([stage], windows(T), RESETS)))
    assert_equal(stages[0][1], stages[1][1])
    assert [*stages[0][0].traces] == ["1.gate.bias", "1.candidate.bias"]


def test_a_layer_that_is_frozen_carries_nothing_and_the_one_above_is_exact() -> None:
    lower, upper = chain(MinGRU), chain(LRU)
    module = Chain(*lower, *upper)
    for layer in lower:
        layer.requires_grad_(False)
    expected = of_whole([upper], [lower(x)[0] for x in windows(T * len(RESETS))[:1]], [None])
    stage = OnlineStage(module, sgd(module), first=True)
    of_windows([stage], windows(T * len(RESETS))[0].split(T, dim=1), [None] * len(RESETS))
    assert {name.partition(".")[0] for name in stage.traces} == {"5"}
    above = [*module[5].parameters(), *module[6].parameters()]
    below = len([*module[4].parameters()])
    assert_equal([p.grad for p in above if p.grad is not None], expected[below:])
    assert all(p.grad is None for layer in lower for p in layer.parameters())


class Halved(MinGRU):
    """Its closed form does not belong to its recurrence."""

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        y, (h,) = super().forward(x, state)
        return y, (h / 2,)


class Twice(MinGRU):
    """Its parts have different inputs."""

    def forward(self, x: Tensor, state: State = ()) -> tuple[Tensor, State]:
        gate, candidate = torch.sigmoid(self.gate(x)), self.candidate(x.clone())
        h, outputs = state[0][0], []
        for t in range(x.shape[1]):
            h = (1 - gate[:, t]) * h + gate[:, t] * candidate[:, t]
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h.unsqueeze(0),)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Halved, r"layer '0' \(Halved\): its `slopes` differ from autograd's derivatives"),
        (Twice, r"layer '0' has `slopes`, and calls 0\.gate and 0\.candidate several times or with different inputs"),
    ],
)
def test_closed_forms_that_are_wrong_are_refused_by_name(kind: Kind, message: str) -> None:
    module = Chain(kind(D, H)).double()
    stage = OnlineStage(module, sgd(module))
    stage.forward(windows(T)[0])
    stage.backward(None)
    with pytest.raises(UsageError, match=message):
        stage.update()
