"""dni/models: names, shapes, state, and equality with torch's own layers."""

import pytest
import torch
from torch import nn

from dni.errors import ConfigError
from dni.models import GRU, LSTM, Gru, Lstm, MinGRU, MinGru, Mlp, ModelContext, SegmentTransformer, Transformer, mlp


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children()]


def test_lstm_equals_torch_and_carries_its_state() -> None:
    layer, x = LSTM(3, 5), torch.randn(2, 8, 3)
    expected, (hidden, cell) = layer.rnn(x)
    first, state = layer(x[:, :4], layer.initial_state(2))
    second, state = layer(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), expected)
    torch.testing.assert_close(state, (hidden, cell))
    assert [s.shape for s in layer.initial_state(2)] == [(1, 2, 5), (1, 2, 5)]


def test_gru_equals_torch_and_carries_its_state() -> None:
    layer, x = GRU(3, 5), torch.randn(2, 8, 3)
    expected, hidden = layer.rnn(x)
    first, state = layer(x[:, :4], layer.initial_state(2))
    second, state = layer(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), expected)
    torch.testing.assert_close(state, (hidden,))
    assert [s.shape for s in layer.initial_state(2)] == [(1, 2, 5)]


@pytest.mark.parametrize("layer", [LSTM(3, 5), GRU(3, 5)])
def test_an_empty_state_is_zeros_and_outputs_are_contiguous(layer: LSTM | GRU) -> None:
    x = torch.randn(2, 4, 3)
    y, _ = layer(x, ())
    assert torch.equal(y, layer(x, layer.initial_state(2))[0])
    assert y.is_contiguous()


def test_the_initial_state_has_the_layers_type() -> None:
    layer = LSTM(3, 5).double()
    assert {s.dtype for s in layer.initial_state(2)} == {torch.float64}
    assert layer(torch.randn(2, 4, 3).double(), layer.initial_state(2))[0].dtype == torch.float64


@pytest.mark.parametrize(("settings", "tensors"), [(Lstm(units=4, layers=3), 2), (Gru(units=4, layers=3), 1)])
def test_language_model(settings: Lstm | Gru, tensors: int) -> None:
    model, kind = settings.build(ModelContext(symbols=7)), settings.name
    assert names(model) == ["embedding", f"{kind}1", f"{kind}2", f"{kind}3", "softmax"]
    symbols = torch.randint(7, (2, 6))
    scores, state = model(symbols, model.initial_state(2))
    assert scores.shape == (2, 6, 7)
    assert [s.shape for s in state] == [(1, 2, 4)] * 3 * tensors


def test_language_model_refuses_what_it_cannot_build() -> None:
    with pytest.raises(ConfigError, match="units 4 divisible by heads 3"):
        Transformer(units=4, layers=1, heads=3).build(ModelContext(7))


@pytest.mark.parametrize(("settings", "layer", "state"), [
    (MinGru(units=4, layers=2), MinGRU, [(1, 2, 4)]),
    (Transformer(units=4, layers=2, heads=2, memory=5), SegmentTransformer, [(5, 2, 4), (1, 2, 1)]),
])  # fmt: skip
def test_language_model_of_other_layers(
    settings: MinGru | Transformer, layer: type[nn.Module], state: list[tuple[int, ...]]
) -> None:
    model, kind = settings.build(ModelContext(symbols=7, input_symbols=9)), settings.name
    norm = ["norm"] if kind == "transformer" else []
    assert names(model) == ["embedding", f"{kind}1", f"{kind}2", *norm, "softmax"]
    assert all(isinstance(model.get_submodule(f"{kind}{n}"), layer) for n in (1, 2))
    scores, after = model(torch.randint(9, (2, 6)), model.initial_state(2))
    assert scores.shape == (2, 6, 7)
    assert [tuple(s.shape) for s in after] == state * 2


def test_mlp() -> None:
    model = mlp(inputs=3, units=5, layers=2, outputs=4)
    assert names(model) == ["layer1", "relu1", "layer2", "relu2", "output"]
    x = torch.randn(6, 3)
    y, state = model(x)
    one, two, out = model.layer1, model.layer2, model.output
    assert torch.equal(y, out(two(one(x).relu()).relu()))
    assert state == ()
    assert names(mlp(3, 5, 0, 4)) == ["output"]
    assert mlp(3, 5, 0, 4)(x)[0].shape == (6, 4)


def test_mlp_of_symbols_sees_one_character() -> None:
    model = Mlp(units=5, layers=2).build(ModelContext(7))
    assert names(model) == ["embedding", "layer1", "relu1", "layer2", "relu2", "softmax"]
    a, b = torch.tensor([[1, 2, 3]]), torch.tensor([[6, 2, 0]])
    (ya, state), (yb, _) = model(a), model(b)
    assert ya.shape == (1, 3, 7)
    assert state == model.initial_state(1) == ()
    assert torch.equal(ya[:, 1], yb[:, 1])
    assert not torch.equal(ya[:, 0], yb[:, 0])
