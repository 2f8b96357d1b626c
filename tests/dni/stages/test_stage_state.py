"""The state of a stage between windows: recurrent state, random state and mode."""

from __future__ import annotations

import threading

import torch
from torch import Tensor, nn

from dni.models import LSTM
from dni.recurrent import Chain
from dni.stages.base import Stage
from tests.support.stages.optimizer import sgd

T, D = 4, 5


def test_reset_stream_starts_afresh_without_a_gradient_to_earlier_windows() -> None:
    model = Chain(LSTM(D, D))
    stage, x = Stage(model, sgd(model)), torch.randn(2, T, D)
    stage.forward(x)
    stage.backward(torch.ones(2, T, D))
    output, _ = stage.forward(x, torch.tensor([True, False]))
    back = stage.backward(torch.ones(2, T, D)).state
    fresh, _ = Stage(model, sgd(model)).forward(x)
    assert torch.equal(output[0], fresh[0])
    assert not torch.equal(output[1], fresh[1])
    assert back is not None
    assert torch.equal(back[0], torch.zeros(2 * D))
    assert back[1].abs().sum() > 0


def test_evaluation_leaves_training_alone() -> None:
    model = Chain(nn.Linear(D, D), nn.Dropout(0.5), LSTM(D, D))
    stage, x = Stage(model, sgd(model)), torch.randn(2, T, D)
    _, before = stage.forward(x)
    stage.backward(torch.ones(2, T, D))
    random = torch.get_rng_state()
    first = stage.evaluate(x)
    second = stage.evaluate(x)
    assert not torch.equal(first, second)  # validation carries its own state
    assert torch.equal(stage.evaluate(x, torch.tensor([True, True])), first)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert before is not None
    assert stage.state is not None
    assert torch.equal(torch.cat([s[0] for s in stage.state], 1), before)


def test_stages_in_threads_draw_from_their_own_random_state() -> None:
    def masks(stage: Stage, found: list[Tensor]) -> None:
        for _ in range(20):
            found.append(stage.forward(torch.ones(1, 64))[0])

    def stage(seed: int) -> Stage:
        module = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5))
        torch.manual_seed(9)
        module[0].reset_parameters()
        return Stage(module, sgd(module), seed=seed)

    alone: list[list[Tensor]] = [[], []]
    for seed in (0, 1):
        masks(stage(seed), alone[seed])
    together: list[list[Tensor]] = [[], []]
    threads = [threading.Thread(target=masks, args=(stage(seed), together[seed])) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(alone, together, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])
