"""dni/models/mingru.py: the scan against the recurrence itself."""

import pytest
import torch
from torch import Tensor

from dni.models import MinGRU
from dni.models.scan import linear_scan
from dni.recurrent import Chain, reset_streams
from dni.stages.base import Stage
from tests.support.windows import whole_gradients, windowed_gradients


def step_by_step(decay: Tensor, drive: Tensor, state: Tensor) -> Tensor:
    states = []
    for t in range(drive.shape[1]):
        state = decay[:, t] * state + drive[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def test_a_scan_by_hand() -> None:
    decay, drive = torch.tensor([[[0.5], [0.5], [0.0], [1.0]]]), torch.tensor([[[1.0], [2.0], [3.0], [-4.0]]])
    # 0.5 * 8 + 1 = 5, 0.5 * 5 + 2 = 4.5, 0 * 4.5 + 3 = 3, 1 * 3 - 4 = -1
    assert linear_scan(decay, drive, torch.tensor([[8.0]])).flatten().tolist() == [5.0, 4.5, 3.0, -1.0]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 33])
def test_the_scan_and_its_gradients_equal_the_recurrence(steps: int) -> None:
    decay = torch.rand(2, steps, 3, dtype=torch.float64, requires_grad=True)
    drive = torch.randn(2, steps, 3, dtype=torch.float64, requires_grad=True)
    initial = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, steps, 3, dtype=torch.float64)
    results = []
    for run in (linear_scan, step_by_step):
        y = run(decay, drive, initial)
        results.append([y, *torch.autograd.grad((y * weight).sum(), (decay, drive, initial))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)


def test_extreme_gates_over_a_long_window_stay_exact_in_float32() -> None:
    gate = torch.randn(2, 1000, 4) * 60  # the decay is 0 or 1 in float32 at most steps, and its products vanish
    decay, drive = torch.sigmoid(-gate).requires_grad_(), torch.sigmoid(gate) * torch.randn(2, 1000, 4)
    initial = torch.randn(2, 4, requires_grad=True)
    y = linear_scan(decay, drive, initial)
    expected = step_by_step(decay.double(), drive.double(), initial.double())
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (decay, initial)))


def test_min_gru_is_its_equation() -> None:
    layer, x, hidden = MinGRU(3, 5), torch.randn(2, 6, 3), torch.randn(1, 2, 5)
    y, (after,) = layer(x, (hidden,))
    h = hidden[0]
    for t in range(6):
        z = torch.sigmoid(layer.gate(x[:, t]))
        h = (1 - z) * h + z * layer.candidate(x[:, t])
        torch.testing.assert_close(y[:, t], h)
    torch.testing.assert_close(after[0], h)
    assert torch.equal(layer(x)[0], layer(x, layer.initial_state(2))[0])
    assert [s.shape for s in layer.initial_state(2)] == [(1, 2, 5)]
    assert y.is_contiguous()


@pytest.mark.parametrize("window", [1, 3, 4])
def test_windows_that_hand_back_gradients_equal_the_whole(window: int) -> None:
    layer = MinGRU(3, 5).double()
    x, weight = torch.randn(2, 12, 3).double(), torch.randn(2, 12, 5).double()
    state = layer.initial_state(2)
    y, gradients = whole_gradients(layer, x, weight, state)
    again, windowed = windowed_gradients(layer, x, weight, state, window)
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(windowed, gradients)
    assert gradients[1].abs().min() > 0  # the entering state's, at a state of zero


def test_reset_stream_starts_afresh() -> None:
    layer, x = MinGRU(3, 5), torch.randn(2, 4, 3)
    entering = torch.randn(1, 2, 5, requires_grad=True)
    y, _ = layer(x, reset_streams((entering,), torch.tensor([True, False])))
    torch.testing.assert_close(y[:1], layer(x[:1])[0])
    torch.testing.assert_close(y[1:], layer(x[1:], (entering[:, 1:],))[0])
    (gradient,) = torch.autograd.grad(y.sum(), entering)
    assert gradient[:, 0].count_nonzero() == 0
    assert gradient[:, 1].count_nonzero() == 5


def test_stage_takes_one_optimizer_step() -> None:
    module = Chain(MinGRU(3, 5), torch.nn.Tanh(), MinGRU(5, 2))
    stage = Stage(module, torch.optim.SGD(module.parameters(), 0.1))
    for _ in range(2):
        output, state = stage.forward(torch.randn(2, 4, 3))
        assert state is not None
        assert state.shape == (2, 7)
        gradients = stage.backward(torch.ones_like(output), torch.ones_like(state))
        stage.update(2.0)
    assert gradients.state is not None
    assert gradients.state.count_nonzero() == 14
