"""Carried traces against backpropagation through the whole sequence, with constant weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dni.errors import UsageError
from dni.interfaces.synthetic import DecoupledInterface
from dni.models import LRU, LSTM, MinGRU, MinLSTM, ResidualBlock
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, Recurrent
from dni.stages.base import Stage
from dni.stages.online import OnlineStage
from tests.support.stages.optimizer import sgd
from tests.support.stages.own_cell import OwnCell
from tests.support.stages.windows_of_stages import FutureOf, of_whole, of_windows

B, T, D, H, WINDOWS = 3, 4, 5, 6, 5

CELLS: dict[str, Callable[[int, int], Recurrent]] = {"mingru": MinGRU, "minlstm": MinLSTM, "lru": LRU, "own": OwnCell}


def windows(seed: int = 1, count: int = WINDOWS, length: int = T) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, length, D, dtype=torch.float64, generator=generator) for _ in range(count)]


def block(kind: str, inputs: int) -> list[nn.Module]:
    """A linear layer, a recurrent layer, and a linear layer back to D numbers."""
    layer = CELLS[kind](D, H)
    width = H if kind in ("mingru", "minlstm") else D
    return [nn.Linear(inputs, D), nn.LayerNorm(D), layer, nn.Linear(width, D), nn.Tanh()]


def chain(kind: str, layers: int) -> Chain:
    torch.manual_seed(3)
    return Chain(*[part for _ in range(layers) for part in block(kind, D)]).double()


def online(module: Chain) -> OnlineStage:
    return OnlineStage(module, sgd(module))


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


NO_RESETS = [None] * WINDOWS


@pytest.mark.parametrize("kind", CELLS)
def test_of_one_layer_all_traced_weights_and_those_above_equal_the_whole_sequence(kind: str) -> None:
    module = chain(kind, 1)
    expected = of_whole([module], windows(), NO_RESETS)
    found = of_windows([online(module)], windows(), NO_RESETS)
    names = [name for name, _ in module.named_parameters()]
    below = [n for n, name in enumerate(names) if name[0] in "01"]  # what lies below needs the future
    exact = [n for n in range(len(names)) if n not in below]
    assert_equal([found[n] for n in exact], [expected[n] for n in exact])
    assert all((found[n] - expected[n]).abs().max() > 1e-3 * expected[n].abs().max() for n in below)
    for p in module.parameters():
        p.grad = None
    truncated = of_windows([Stage(module, sgd(module))], windows(), NO_RESETS)
    traced = [n for n, name in enumerate(names) if name[0] == "2" and "out" not in name and "skip" not in name]
    assert all((truncated[n] - expected[n]).abs().max() > 1e-3 * expected[n].abs().max() for n in traced)


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("stages", [1, 2])
def test_of_two_layers_the_upper_is_exact_and_the_lower_with_an_oracle(kind: str, stages: int) -> None:
    whole = chain(kind, 2)
    cut = [5] if stages == 2 else []
    chains = [Chain(*list(whole)[a:b]) for a, b in zip([0, *cut], [*cut, 10], strict=True)]
    resets = [None, None, torch.tensor([True, False, False]), None, None]
    expected = of_whole(chains, windows(), resets)
    found = of_windows([online(each) for each in chains], windows(), resets)
    names = [name for name, _ in whole.named_parameters()]
    upper = [n for n, name in enumerate(names) if name[0] in "789"]
    lower = [n for n, name in enumerate(names) if name[0] == "2"]
    assert_equal([found[n] for n in upper], [expected[n] for n in upper])
    assert any((found[n] - expected[n]).abs().max() > 1e-3 * expected[n].abs().max() for n in lower)
    for p in whole.parameters():
        p.grad = None
    oracles = [FutureOf(chains, k, windows(), resets) for k in range(stages)]
    assert_equal(of_windows([online(each) for each in chains], windows(), resets, oracles), expected)


@pytest.mark.parametrize("kind", CELLS)
def test_a_whole_sequence_in_one_window_is_full_backpropagation_bit_for_bit(kind: str) -> None:
    module, one = chain(kind, 2), [torch.cat(windows(), dim=1)]
    full = of_windows([Stage(module, sgd(module))], one, [None])
    for p in module.parameters():
        p.grad = None
    assert all(torch.equal(a, b) for a, b in zip(of_windows([online(module)], one, [None]), full, strict=True))


def test_a_zero_predictor_is_no_future_bit_for_bit() -> None:
    module = chain("mingru", 2)
    spatial = of_windows([online(module)], windows(), NO_RESETS)
    for p in module.parameters():
        p.grad = None
    zero = DecoupledInterface(Regressor(2 * H, hidden=4).double())
    synthetic = of_windows([online(module)], windows(), NO_RESETS, [zero])
    assert all(torch.equal(a, b) for a, b in zip(synthetic, spatial, strict=True))


def test_steps_of_one_window_are_real_time_recurrent_learning() -> None:
    """Two units of a minimal GRU, by the equations of its traces."""
    torch.manual_seed(0)
    layer = MinGRU(2, 2).double()
    module, xs = Chain(layer), [x[:, :, :2] for x in windows(length=1)]
    found = of_windows([online(module)], xs, NO_RESETS)
    h = torch.zeros(B, 2, dtype=torch.float64)
    traces = {name: torch.zeros(B, *p.shape, dtype=torch.float64) for name, p in layer.named_parameters()}
    sums = {name: torch.zeros_like(p) for name, p in layer.named_parameters()}
    with torch.no_grad():
        for window in xs:
            x = window[:, 0]
            z, c = torch.sigmoid(layer.gate(x)), layer.candidate(x)
            by_gate, by_candidate = (c - h) * z * (1 - z), z  # dh_t / d pre-activation
            for part, slope in (("gate", by_gate), ("candidate", by_candidate)):
                for b in range(B):
                    for i in range(2):
                        traces[f"{part}.bias"][b, i] = (1 - z[b, i]) * traces[f"{part}.bias"][b, i] + slope[b, i]
                        for d in range(2):
                            old = traces[f"{part}.weight"][b, i, d]
                            traces[f"{part}.weight"][b, i, d] = (1 - z[b, i]) * old + slope[b, i] * x[b, d]
            h = (1 - z) * h + z * c
            back = h + torch.cos(h)  # of loss_of
            for name, trace in traces.items():
                rows = back.view(B, 2, *[1] * (trace.dim() - 2))
                sums[name] += (rows * trace).sum(0)
    assert_equal(found, list(sums.values()))


def test_an_episode_that_begins_inside_a_batch_has_no_past() -> None:
    module, xs = chain("own", 1), windows()
    stage, fresh = online(module), online(module)
    of_windows([stage], xs[:3], NO_RESETS[:3])
    for p in module.parameters():
        p.grad = None
    row, reset = slice(1, 2), torch.tensor([False, True, False])
    stage.forward(xs[3], reset)
    stage.backward(torch.zeros(B, T, D, dtype=torch.float64))
    of_windows([fresh], [xs[3][row]], [None])
    for name, trace in stage.traces.items():
        torch.testing.assert_close(trace[row], fresh.traces[name])


def test_a_window_without_a_backward_pass_is_carried_too() -> None:
    module, xs = chain("mingru", 1), windows()
    stage, other = online(module), online(module)
    for x in xs:
        stage.forward(x)
        other.forward(x)
        other.backward(None)
    assert stage.state_dict()["traces"].keys() == other.traces.keys()
    assert all(torch.equal(stage.traces[name], trace) for name, trace in other.traces.items())


def test_a_saved_stage_goes_on_exactly() -> None:
    module, xs = chain("own", 2), windows()
    first = online(module)
    of_windows([first], xs[:2], NO_RESETS[:2])
    again = online(chain("own", 2))
    again.load_state_dict(first.state_dict())
    for p in module.parameters():
        p.grad = None
    whole, resumed = (of_windows([stage], xs[2:], NO_RESETS[2:]) for stage in (first, again))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_a_batch_of_another_size_begins_anew() -> None:
    module, xs = chain("mingru", 1), windows()
    stage, fresh = online(module), online(module)
    of_windows([stage], xs[:2], [None] * 2)
    of_windows([stage], [xs[2][:2]], [None])
    of_windows([fresh], [xs[2][:2]], [None])
    assert all(torch.equal(stage.traces[name], trace) for name, trace in fresh.traces.items())


def test_frozen_weights_have_no_traces() -> None:
    """Also where the input of the frozen part has no gradient."""
    for module, name in ((chain("mingru", 1), "2"), (Chain(MinGRU(D, H)).double(), "0")):
        layer = module.get_submodule(name)
        assert isinstance(layer, MinGRU)
        layer.gate.requires_grad_(False)
        stage = OnlineStage(module, sgd(module), first=True)
        of_windows([stage], windows(), NO_RESETS)
        assert {*stage.traces} == {f"{name}.candidate.weight", f"{name}.candidate.bias"}
        assert layer.gate.weight.grad is None


class Mixing(OwnCell):
    """Its units act on each other through a norm of the state."""

    def forward(self, x: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        y, (h, c) = super().forward(x, state)
        return y, (nn.functional.layer_norm(h, h.shape[-1:]), c)


def test_layers_that_mix_units_are_refused_by_name() -> None:
    lstm = Chain(nn.Linear(D, D), LSTM(D, H))
    with pytest.raises(UsageError, match=r"layer '1' \(LSTM\) names no weights in `traced`"):
        OnlineStage(lstm, sgd(lstm))
    module = Chain(Mixing(D, H)).double()
    stage = online(module)
    stage.forward(windows()[0])
    stage.backward(None)
    with pytest.raises(UsageError, match=r"layer '0' \(Mixing\): units of its state act on each other"):
        stage.update()


class Unlike(OwnCell):
    """It names a part that is not linear."""

    def traced(self) -> tuple[nn.Module, ...]:
        return (nn.LayerNorm(D),)


class Uncalled(MinGRU):
    """It computes its gate without a call of the part."""

    def forward(self, x: Tensor, state: tuple[Tensor, ...] = ()) -> tuple[Tensor, tuple[Tensor, ...]]:
        drive = nn.functional.linear(x, self.gate.weight) * self.candidate(x)
        y = torch.cumsum(drive, dim=1) + state[0].squeeze(0)[:, None]
        return y, (y[:, -1].unsqueeze(0),)


def test_wrong_parts_are_refused_by_name() -> None:
    module = Chain(Unlike(D, H))
    with pytest.raises(UsageError, match=r"layer '0' \(Unlike\) names a LayerNorm in `traced`"):
        online(module)
    stage = online(Chain(Uncalled(D, H)).double())
    stage.forward(windows()[0])
    stage.backward(None)
    with pytest.raises(UsageError, match=r"layer '0' has not called its traced part 0\.gate: call it in forward"):
        stage.update()


def test_nothing_stays_hooked_to_the_layers() -> None:
    module = chain("mingru", 1)
    of_windows([online(module)], windows(), NO_RESETS)
    assert all(not part._forward_hooks and not part._forward_pre_hooks for part in module.modules())


def test_residual_blocks_are_exact_with_an_oracle() -> None:
    """Weights of a norm in front of the cell have no traces: they learn from the future, as the layers below do."""
    torch.manual_seed(4)
    module = Chain(nn.Linear(D, D), ResidualBlock(LRU(D, D), D), ResidualBlock(MinLSTM(D, D), D)).double()
    expected = of_whole([module], windows(), NO_RESETS)
    found = of_windows([online(module)], windows(), NO_RESETS, [FutureOf([module], 0, windows(), NO_RESETS)])
    assert_equal(found, expected)
