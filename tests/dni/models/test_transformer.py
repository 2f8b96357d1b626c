"""dni/models/transformer.py: attention, memory, and independence of window cuts."""

import math

import pytest
import torch

from dni.errors import ConfigError
from dni.models import ModelContext, SegmentTransformer, Transformer
from dni.recurrent import Chain, reset_streams
from dni.stages.base import Stage
from dni.types import State
from tests.support.windows import whole_gradients, windowed_gradients


def layer(units: int = 4, heads: int = 2, memory: int = 5) -> SegmentTransformer:
    made = SegmentTransformer(units, heads, memory).double()
    torch.nn.init.normal_(made.distance)
    return made


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def used(transformer: SegmentTransformer, steps: int, batch: int = 2) -> State:
    """Return the state after a sequence of `steps`."""
    state: State = transformer(numbers(batch, steps, transformer.units))[1]
    return tuple(s.detach() for s in state)


def test_attention_equals_a_plain_loop() -> None:
    t, x = layer(), numbers(1, 9, 4)
    y, _ = t(x)
    known = t.norm1(x[0])
    q, (k, v) = t.query(known), t.key_value(known).split(4, dim=-1)
    for now in range(9):
        heads = []
        for head, part in enumerate((slice(0, 2), slice(2, 4))):
            seen = range(max(0, now - 5), now + 1)  # itself and five before
            scores = [q[now, part] @ k[s, part] / math.sqrt(2) + t.distance[head, now - s] for s in seen]
            weights = torch.stack(scores).softmax(dim=0)
            heads.append(sum(w * v[s, part] for w, s in zip(weights, seen, strict=True)))
        mixed = x[0, now] + t.output(torch.cat(heads))
        torch.testing.assert_close(y[0, now], mixed + t.feed_forward(t.norm2(mixed)))


@pytest.mark.parametrize("window", [1, 3, 4, 6])
@pytest.mark.parametrize("before", [0, 2, 12])
def test_windows_that_hand_back_gradients_equal_the_whole(window: int, before: int) -> None:
    t = layer()
    state = used(t, before) if before else t.initial_state(2)
    x, weight = numbers(2, 12, 4), numbers(2, 12, 4)
    y, gradients = whole_gradients(t, x, weight, state)
    again, windowed = windowed_gradients(t, x, weight, state, window)
    torch.testing.assert_close(again, y)
    torch.testing.assert_close(windowed, gradients)


def test_the_state_is_the_last_inputs_and_how_many_there_are() -> None:
    t, x = layer(), numbers(2, 7, 4)
    assert [s.shape for s in t.initial_state(2)] == [(5, 2, 4), (1, 2, 1)]
    _, (memory, filled) = t(x[:, :3])
    assert memory[:2].count_nonzero() == 0
    assert torch.equal(memory[2:], x[:, :3].transpose(0, 1))
    assert filled.flatten().tolist() == [0.6, 0.6]
    _, (memory, filled) = t(x[:, 3:], (memory, filled))
    assert torch.equal(memory, x[:, 2:].transpose(0, 1))
    assert filled.flatten().tolist() == [1.0, 1.0]
    assert torch.equal(t(x)[0], t(x, t.initial_state(2))[0])


def test_reset_stream_starts_afresh_and_stays_so() -> None:
    t, x = layer(), numbers(2, 2, 4)
    entering = reset_streams(used(t, 9), torch.tensor([True, False]))
    y, after = t(x, entering)
    alone, alone_after = t(x[:1])
    torch.testing.assert_close(y[:1], alone)
    assert after[1].flatten().tolist() == [0.4, 1.0]
    later, _ = t(x, after)  # three slots of the first stream are still empty
    torch.testing.assert_close(later[:1], t(x[:1], alone_after)[0])


def test_nothing_attends_to_empty_slots() -> None:
    t, x = layer(), numbers(2, 3, 4)
    memory, filled = used(t, 2)
    spoiled = memory.clone()
    spoiled[:3] = 1e3
    assert torch.equal(t(x, (memory, filled))[0], t(x, (spoiled, filled))[0])
    spoiled[3:] = 1e3
    assert not torch.equal(t(x, (memory, filled))[0], t(x, (spoiled, filled))[0])


def test_gradients_reach_the_memory_but_not_its_fill() -> None:
    t = layer()
    memory, filled = (s.requires_grad_() for s in used(t, 3))
    y, leaving = t(numbers(2, 2, 4), (memory, filled))
    ends = [y.sum(), *(s.sum() for s in leaving)]
    to_memory, to_filled = torch.autograd.grad(sum(ends), (memory, filled))
    assert to_memory[2:].count_nonzero() == to_memory[2:].numel()
    assert to_memory[:2].count_nonzero() == 0  # slots that were empty, and that leave the memory
    assert to_filled.count_nonzero() == 0


@pytest.mark.parametrize("steps", [2, 8])
def test_stage_takes_one_optimizer_step(steps: int) -> None:
    module = Chain(SegmentTransformer(4, 2, 5), SegmentTransformer(4, 1, 3))
    stage = Stage(module, torch.optim.SGD(module.parameters(), 0.1))
    for reset in (None, torch.tensor([True, False])):
        output, state = stage.forward(torch.randn(2, steps, 4), reset)
        assert state is not None
        assert state.shape == (2, 5 * 4 + 1 + 3 * 4 + 1)
        gradients = stage.backward(torch.ones_like(output), torch.ones_like(state))
        stage.update(2.0)
    assert gradients.state is not None
    assert gradients.state[0].count_nonzero() == 0
    assert gradients.state[1].count_nonzero() > 0


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="units 4 divisible by heads 3"):
        SegmentTransformer(4, 3, 5)
    with pytest.raises(ConfigError, match="a memory 0 >= 1"):
        SegmentTransformer(4, 2, 0)


def test_first_weights_are_those_of_gpt_2() -> None:
    """Normal with 0.02; the last layer of both residual branches of 8 blocks: 0.02 / sqrt(16) = 0.005."""
    torch.manual_seed(0)
    model = Transformer(units=64, layers=8, heads=4).build(ModelContext(50))
    assert [*model._modules] == ["embedding", *(f"transformer{i}" for i in range(1, 9)), "norm", "softmax"]
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", "distance")):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()
        else:
            last = name.endswith(("output.weight", "feed_forward.2.weight"))
            assert parameter.std().item() == pytest.approx(0.005 if last else 0.02, rel=0.05)
