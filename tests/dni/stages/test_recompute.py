"""Recomputed chunks: the gradients of full backpropagation, with fewer kept activations."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.models import GRU, LSTM
from dni.recurrent import Chain, Recurrent
from dni.stages.base import Stage
from tests.support.runs import parameters_of, tiny
from workers.launch.launcher import launch

B, T, D = 3, 40, 5
LAYERS = pytest.mark.parametrize("layer", [LSTM, GRU])


def stage_of(layer: type[Recurrent], chunk: int | None, *between: nn.Module) -> Stage:
    torch.manual_seed(1)
    module = Chain(layer(D, D), *between, layer(D, D)).double()  # type: ignore[call-arg]
    return Stage(module, torch.optim.SGD(module.parameters(), 0.1), seed=3, chunk=chunk)


def gradients(stage: Stage, steps: int = T) -> list[Tensor]:
    """Run two windows; return outputs and the gradients of inputs, states and parameters."""
    generator, found = torch.Generator().manual_seed(0), []
    for reset in (None, torch.tensor([True, False, False])):
        x, back = (torch.randn(B, steps, D, dtype=torch.float64, generator=generator) for _ in range(2))
        output, state = stage.forward(x, reset)
        assert state is not None
        found += [output, *(g for g in stage.backward(back, torch.ones_like(state)) if g is not None)]
    return [*found, *(p.grad for p in stage.module.parameters() if p.grad is not None)]


@LAYERS
@pytest.mark.parametrize("chunk", [1, 7, T, 2 * T])  # 7 does not divide T
def test_the_gradients_are_those_of_the_whole_window(layer: type[Recurrent], chunk: int) -> None:
    for a, b in zip(gradients(stage_of(layer, None)), gradients(stage_of(layer, chunk)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)  # weight gradients are summed chunk by chunk


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("model", ["lstm", "gru"])
def test_training_is_that_of_full_backpropagation(model: str, stages: int, tmp_path: Path) -> None:
    found = {}
    for time in ("full", "checkpointed"):
        settings: dict[str, Any] = {"depth": {"method": "backprop"}, "time": {"method": time}, "steps": 10}
        optimizer = {"kind": "sgd", "learning_rate": 0.5, "momentum": 0.9}
        launch(tiny(stages=stages, model={"kind": model}, optimizer=optimizer, **settings), tmp_path / time)
        found[time] = parameters_of(tmp_path / time, stages)
    for name, whole in found["full"].items():  # float32 sums in another order differ by rounding
        torch.testing.assert_close(found["checkpointed"][name], whole, rtol=1e-5, atol=1e-6)


def kept_bytes(stage: Stage, steps: int) -> int:
    """Return the bytes of memory that the graph of one window keeps until `backward`."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stage.forward(torch.zeros(B, steps, D, dtype=torch.float64))
    return sum(kept.values())


@LAYERS
def test_activations_of_chunks_are_not_kept(layer: type[Recurrent]) -> None:
    whole, chunked = (kept_bytes(stage_of(layer, chunk), 200) for chunk in (None, 20))
    assert whole > 200 * B * D * 8 * 10  # both layers keep their gates and outputs, at least
    assert chunked < whole / 10


def test_one_chunk_is_recomputed_at_a_time() -> None:
    counts = [0, 0]  # chunks alive now, and at most

    class Alive(torch.autograd.Function):
        """The identity, whose backward pass counts a chunk as released."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            counts[0] += 1
            counts[1] = max(counts)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            assert ctx.saved_tensors
            counts[0] -= 1
            return gradient

    class Marked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Alive.apply(x)  # type: ignore[no-any-return]

    stage = stage_of(LSTM, 10, Marked())
    stage.forward(torch.zeros(B, T, D, dtype=torch.float64))
    counts[:] = [0, 0]
    stage.backward(torch.ones(B, T, D, dtype=torch.float64))
    assert counts == [0, 1]


def test_recomputed_chunks_have_the_same_dropout_masks() -> None:
    """Compare with central differences of a loss whose masks depend on the stage's seed alone; check random states."""

    def loss(x: Tensor) -> tuple[Stage, Tensor]:
        stage = stage_of(LSTM, 7, nn.Dropout(0.5))
        output, _ = stage.forward(x)
        return stage, output.sum()

    x = torch.randn(B, T, D, dtype=torch.float64)
    stage, _ = loss(x)
    assert stage.randomness is not None
    own, process = stage.randomness.states["cpu"], torch.get_rng_state()
    gradient = stage.backward(torch.ones_like(x)).activation
    assert torch.equal(stage.randomness.states["cpu"], own)
    assert torch.equal(torch.get_rng_state(), process)
    assert gradient is not None
    direction = torch.randn_like(x)
    slope = (loss(x + 1e-6 * direction)[1] - loss(x - 1e-6 * direction)[1]) / 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6)


def test_stages_in_threads_do_not_disturb_each_other() -> None:
    alone = [gradients(stage_of(LSTM, 7, nn.Dropout(0.5))) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*alone, strict=True))
    stages = [[stage_of(LSTM, 7, nn.Dropout(0.5)) for _ in range(5)] for _ in range(2)]
    found: list[list[Tensor]] = []

    def work(mine: list[Stage]) -> None:
        torch.set_num_threads(torch.get_num_threads())  # the setting of the main thread
        found.extend(gradients(stage) for stage in mine)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    for each in found:
        assert all(torch.equal(a, b) for a, b in zip(alone[0], each, strict=True))
