"""dni/recurrent.py: chains, resets per stream, packed states."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni.models import GRU, LSTM
from dni.recurrent import Chain, pack, reset_streams, unpack


def test_a_chain_keeps_the_states_in_the_order_of_its_layers() -> None:
    lstm, gru = LSTM(3, 4), GRU(4, 5)
    chain = Chain(lstm, nn.Tanh(), gru)
    assert [s.shape for s in chain.initial_state(2)] == [(1, 2, 4), (1, 2, 4), (1, 2, 5)]
    x = torch.randn(2, 6, 3)
    hidden, cell, other = (torch.randn_like(s) for s in chain.initial_state(2))
    y, state = chain(x, (hidden, cell, other))
    middle, (new_hidden, new_cell) = lstm(x, (hidden, cell))
    expected, (new_other,) = gru(middle.tanh(), (other,))
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(state, (new_hidden, new_cell, new_other), strict=True))


def test_a_chain_without_recurrent_layers_is_stateless() -> None:
    chain = Chain(nn.Linear(3, 2))
    y, state = chain(torch.ones(1, 3))
    assert chain.initial_state(4) == state == ()
    assert y.shape == (1, 2)


def test_reset_streams_zeroes_value_and_gradient_of_those_streams_only() -> None:
    state = tuple(torch.randn(1, 3, width, requires_grad=True) for width in (4, 2))
    after = reset_streams(state, torch.tensor([True, False, True]))
    torch.stack([s.sum() for s in after]).sum().backward()
    for old, new in zip(state, after, strict=True):
        assert torch.equal(new[:, 1], old[:, 1])
        assert new[:, [0, 2]].count_nonzero() == 0
        assert old.grad is not None
        assert torch.equal(old.grad[:, 1], torch.ones_like(old[:, 1]))
        assert old.grad[:, [0, 2]].count_nonzero() == 0


def test_reset_streams_with_nothing_to_reset() -> None:
    state = (torch.randn(2, 3),)
    assert reset_streams(state, None) is state
    assert reset_streams((), torch.tensor([True])) == ()
    assert torch.equal(reset_streams(state, torch.tensor([False, False]))[0], state[0])


def test_pack_by_hand() -> None:
    # Two layers' hidden states in one tensor (2, B, 2), then a cell (B, 1): each row is one stream.
    stacked = torch.tensor([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]])
    cell = torch.tensor([[13], [14], [15]])
    assert pack((stacked, cell)).tolist() == [[1, 2, 7, 8, 13], [3, 4, 9, 10, 14], [5, 6, 11, 12, 15]]


@settings(derandomize=True, deadline=None)
@given(
    batch=st.integers(1, 4),
    shapes=st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_unpack_is_the_inverse_of_pack(batch: int, shapes: list[tuple[int, int]]) -> None:
    state = tuple(torch.randn(layers, batch, width) for layers, width in shapes)
    flat = pack(state)
    assert flat.shape == (batch, sum(layers * width for layers, width in shapes))
    assert all(torch.equal(a, b) for a, b in zip(unpack(flat, state), state, strict=True))
