"""A stage whose time cut is taught from several windows, run again with the parameters of the moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from dni.experimental.lambda_return_in_time import LambdaReturnTargets
from dni.interfaces.base import Interface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.losses import summed_cross_entropy
from dni.models import LSTM
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain, pack, reset_streams
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow

B, T, D, M, F = 3, 4, 5, 3, 20
SCALE = 0.7


class Fixed(Interface):
    """A later stage: an output gradient of its own for every step."""

    def gradient(self, step: int, value: Tensor, labels: Tensor | None, done: Tensor | None = None) -> Tensor:
        return torch.randn(value.shape, dtype=value.dtype, generator=torch.Generator().manual_seed(step))


class Run:
    """A stage, its two cuts, and windows whose second stream begins anew with every third one, not in step with M."""

    def __init__(self, depth: Interface, rate: float = 0.0) -> None:
        torch.manual_seed(0)
        module = Chain(LSTM(D, D), LSTM(D, D), nn.Linear(D, D)).double()
        self.stage = Stage(module, torch.optim.SGD(module.parameters(), rate))
        predictor = Regressor(F, classes=D, future_labels=2).double()
        for parameter in predictor.parameters():
            nn.init.normal_(parameter, std=0.1)
        self.depth, self.time = depth, DecoupledInterface(predictor, scale=SCALE)
        self.made = 0

    def window(self) -> tuple[PastWindow, Tensor]:
        """Run the next window; it, and the gradient of the state that entered."""
        self.made += 1
        generator = torch.Generator().manual_seed(self.made)
        value = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
        labels, future = torch.randint(0, D, (B, T + 2), generator=generator).split([T, 2], dim=1)
        reset, done = (torch.tensor([self.made == 1, self.made % 3 == at, False]) for at in (2, 1))
        output, state = self.stage.forward(value, reset)
        back = self.depth.gradient(self.made, output, labels)
        assert state is not None
        state_gradient = self.time.gradient(self.made, state, future, done)
        gradient = self.stage.backward(back, state_gradient).state
        assert gradient is not None
        return PastWindow(self.made, value, labels, future, reset, done, back, state, state_gradient), gradient

    def taught(self, bootstrap: Bootstrap, windows: int, move: bool) -> Iterator[tuple[PastWindow, int, Tensor]]:
        """The windows, with the targets that were made after each."""
        for _ in range(windows):
            past, gradient = self.window()
            for step, target, _ in bootstrap.targets(past, gradient):
                yield past, step, target
            self.stage.update(move=move)

    def horizon(self, mix: float) -> LambdaReturnTargets:
        return LambdaReturnTargets(self.stage, self.depth, self.time, windows=M, mix=mix)


DEPTHS = pytest.mark.parametrize("depth", [LossInterface, Fixed])


@DEPTHS
def test_without_mixing_and_moving_targets_are_the_plain_bootstrapped_ones(depth: type[Interface]) -> None:
    plain, mixed = Run(depth()), Run(depth())
    expected = [(step, target) for _, step, target in plain.taught(Bootstrap(), 2 * M, move=False)]
    found = list(mixed.taught(mixed.horizon(0.0), 2 * M, move=False))
    assert [past.step for past, _, _ in found] == [M] * M + [2 * M] * M
    for (_, step, target), (at, bootstrapped) in zip(found, expected, strict=True):
        assert step == at
        torch.testing.assert_close(target, bootstrapped, rtol=1e-12, atol=1e-14)


@DEPTHS
def test_full_mixing_is_backpropagation_through_the_horizon_with_the_parameters_of_the_moment(
    depth: type[Interface],
) -> None:
    """The second horizon, after five moves, from the state that entered it; a stream begins anew in its middle."""
    run, seen = Run(depth(), rate=0.1), []
    horizon = run.horizon(1.0)
    for _ in range(2 * M):
        past, gradient = run.window()
        seen.append(past)
        found = horizon.targets(past, gradient)
        if past.step < 2 * M:
            run.stage.update()
    assert [step for step, *_ in found] == [M, M + 1, M + 2]
    expected = whole_gradients(run, seen[M - 1 :])
    for (_, target, _), whole in zip(found, expected, strict=True):
        torch.testing.assert_close(target, whole, rtol=1e-10, atol=1e-12)
    assert expected[0][1].abs().sum() > 0  # the second stream begins anew with window 5 only
    assert expected[1][1].abs().sum() == 0


def whole_gradients(run: Run, windows: list[PastWindow]) -> list[Tensor]:
    """One graph from the state that left the first of the windows through the others, by plain autograd."""
    before, *rest = windows
    assert before.state is not None
    like = run.stage.module.initial_state(B)
    state = tuple(part.unsqueeze(0).clone().requires_grad_() for part in before.state.split(D, dim=1))
    assert [s.shape for s in state] == [s.shape for s in like]
    cuts, total = [state], torch.zeros((), dtype=torch.float64)
    for past in rest:
        output, state = run.stage.module(past.value, reset_streams(state, past.reset))
        cuts.append(state)
        if isinstance(run.depth, LossInterface):
            total = total + summed_cross_entropy(output, past.labels)
        else:
            assert past.output_gradient is not None
            total = total + (output * past.output_gradient).sum()
    last = rest[-1]
    answer = SCALE * run.time.predictor(pack(state).detach(), last.context).detach() * ~last.done.unsqueeze(-1)
    total = total + (pack(state) * answer).sum()
    parts = [part for cut in cuts[:-1] for part in cut]
    found = torch.autograd.grad(total, parts)
    return [pack(found[n : n + 4]) for n in range(0, len(found), 4)]


def test_looking_back_changes_nothing_in_the_stage() -> None:
    one, other = Run(LossInterface()), Run(LossInterface())
    horizon = one.horizon(0.5)
    for _ in range(M):
        past, gradient = one.window()
        other.window()
        horizon.targets(past, gradient)
    for a, b in zip(one.stage.module.parameters(), other.stage.module.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)
    assert one.stage.state is not None
    assert other.stage.state is not None
    assert all(torch.equal(a, b) for a, b in zip(one.stage.state, other.stage.state, strict=True))


def test_every_cut_is_taught_once() -> None:
    run = Run(LossInterface())
    for _, step, target in run.taught(run.horizon(0.5), 3 * M, move=False):
        run.time.target(step, target)
    assert run.time.updates == 3 * M - 1  # nothing left before the first window
    assert list(run.time.state_dict()["sent"]) == [str(3 * M)]
