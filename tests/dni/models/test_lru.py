"""LRU, MinLSTM and the blocks of residual stacks: whole windows against their equations, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dni.models import LRU, MinGRU, MinLSTM, ModelContext, Residual, ResidualBlock
from dni.models.residual import Cell, Mixing
from dni.models.scan import doubling_scan, scan
from dni.recurrent import Recurrent
from tests.support.windows import whole_gradients, windowed_gradients


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 33])
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
@pytest.mark.parametrize("constant", [False, True])
def test_scans_and_their_gradients_equal_the_recurrence(constant: bool, kind: torch.dtype, steps: int) -> None:
    torch.manual_seed(0)
    shapes = (2, 1 if constant else steps, 3), (2, steps, 3), (2, 3)
    decay, drive, initial = ((torch.randn(*s, dtype=kind) / 2).requires_grad_() for s in shapes)
    h, states = initial, []
    for t in range(steps):
        h = decay[:, 0 if constant else t] * h + drive[:, t]
        states.append(h)
    results = []
    for run in (scan, doubling_scan, lambda *_: torch.stack(states, dim=1)):
        y = run(decay, drive, initial)
        results.append([y, *torch.autograd.grad(torch.sin(y.real).sum() + y.abs().sum(), (decay, drive, initial))])
    torch.testing.assert_close(results[0], results[2], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(results[1], results[2], rtol=1e-11, atol=1e-11)


def test_a_scan_of_16_bits_carries_its_state_in_32() -> None:
    decay, drive = torch.rand(2, 5, 3).bfloat16().requires_grad_(), torch.randn(2, 5, 3).bfloat16()
    initial = torch.randn(2, 3)
    y = scan(decay, drive, initial)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, scan(decay.float(), drive.float(), initial))
    assert torch.autograd.grad(y.sum(), decay)[0].dtype == torch.bfloat16


def lru_by_hand(layer: LRU, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.exp(-torch.exp(layer.nu.values))
    angle = torch.exp(layer.theta.values)
    decay = torch.complex(size * torch.cos(angle), size * torch.sin(angle))
    b, c = (torch.complex(*w) for w in (layer.drive.weight.chunk(2), layer.out.weight.chunk(2, dim=1)))
    outputs = []
    for t in range(x.shape[1]):
        h = decay * h + torch.exp(layer.gamma.values) * (x[:, t].to(b.dtype) @ b.T)
        # Re(C h) with C = C_re - i C_im, as the real weights are (C_re, C_im)
        outputs.append((h @ c.conj().T).real + layer.skip * x[:, t])
    return torch.stack(outputs, dim=1), h


def test_lru_is_its_equation() -> None:
    torch.manual_seed(0)
    layer, x, state = LRU(3, 5).double(), torch.randn(2, 9, 3).double(), torch.randn(2, 1, 2, 5).double()
    y, (real, imaginary) = layer(x, (state[0], state[1]))
    expected, h = lru_by_hand(layer, x, torch.complex(state[0, 0], state[1, 0]))
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.complex(real[0], imaginary[0]), h)
    torch.testing.assert_close(layer(x)[0], layer(x, layer.initial_state(2))[0])


def test_the_first_weights_of_an_lru_are_those_of_its_paper() -> None:
    torch.manual_seed(0)
    layer = LRU(40, 4000, smallest=0.5, largest=0.9, phase=0.3)
    size, angle = torch.exp(-torch.exp(layer.nu.values)).detach(), torch.exp(layer.theta.values).detach()
    assert 0.5 <= size.min() < 0.51
    assert 0.89 < size.max() <= 0.9
    assert size.square().mean().item() == pytest.approx((0.25 + 0.81) / 2, abs=0.01)  # uniform in the ring
    assert 0 < angle.min() < 0.01
    assert 0.29 < angle.max() <= 0.3
    torch.testing.assert_close(
        torch.exp(layer.gamma.values).detach(), torch.sqrt(1 - size.square()), rtol=1e-4, atol=1e-5
    )
    assert layer.drive.weight.std().item() == pytest.approx((1 / 80) ** 0.5, rel=0.01)
    assert layer.out.weight.std().item() == pytest.approx((1 / 4000) ** 0.5, rel=0.01)


def test_min_lstm_is_its_equation() -> None:
    torch.manual_seed(0)
    layer, x, hidden = MinLSTM(3, 5).double(), torch.randn(2, 6, 3).double(), torch.randn(1, 2, 5).double()
    y, (after,) = layer(x, (hidden,))
    h = hidden[0]
    for t in range(6):
        f, i = torch.sigmoid(layer.forget(x[:, t])), torch.sigmoid(layer.input(x[:, t]))
        h = f / (f + i) * h + i / (f + i) * layer.candidate(x[:, t])
        torch.testing.assert_close(y[:, t], h)
    torch.testing.assert_close(after[0], h)


@pytest.mark.parametrize("window", [1, 3, 4])
@pytest.mark.parametrize("kind", ["lru", "minlstm", "block"])
def test_windows_that_hand_back_gradients_equal_the_whole(kind: str, window: int) -> None:
    torch.manual_seed(0)
    layers: dict[str, Recurrent] = {
        "lru": LRU(4, 5), "minlstm": MinLSTM(4, 4), "block": ResidualBlock(MinGRU(4, 4), 4, Mixing.plain)
    }  # fmt: skip
    layer = layers[kind].double()
    x, weight = torch.randn(2, 12, 4).double(), torch.randn(2, 12, 4).double()
    state = layer.initial_state(2)
    y, gradients = whole_gradients(layer, x, weight, state)
    again, windowed = windowed_gradients(layer, x, weight, state, window)
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(windowed, gradients)


@pytest.mark.parametrize("mixing", Mixing)
@pytest.mark.parametrize("cell", Cell)
def test_a_residual_stack_has_a_block_for_every_layer(cell: Cell, mixing: Mixing) -> None:
    torch.manual_seed(0)
    model = Residual(units=4, layers=2, cell=cell, mixing=mixing).build(ModelContext(symbols=7))
    assert [name for name, _ in model.named_children()] == ["embedding", "residual1", "residual2", "softmax"]
    scores, state = model(torch.randint(7, (2, 6)), model.initial_state(2))
    assert scores.shape == (2, 6, 7)
    assert [s.shape for s in state] == [(1, 2, 4)] * 2 * (2 if cell is Cell.lru else 1)


def test_a_block_is_its_equation() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    for mixing in Mixing:
        block = ResidualBlock(MinGRU(4, 4), 4, mixing)
        y = nn.functional.gelu(block.cell(block.norm(x))[0])
        a, b = (y @ block.mix.weight.T + block.mix.bias).chunk(2, dim=-1)
        if block.out is None:
            expected = x + a * torch.sigmoid(b)
        else:
            expected = x + block.out(nn.functional.gelu(torch.cat([a, b], dim=-1)))
        torch.testing.assert_close(block(x)[0], expected)
