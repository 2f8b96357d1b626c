"""dni/stages/partition.py: the stages one after another equal the model, and every error says what to type."""

from collections import OrderedDict
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dni.errors import PartitionError
from dni.models import Gru, Lstm, ModelContext, mlp
from dni.recurrent import Chain
from dni.stages.partition import partition


def names(chains: list[Chain]) -> list[list[str]]:
    return [[name for name, _ in chain.named_children()] for chain in chains]


def sized(*sizes: int) -> nn.Sequential:
    """Layers a, b, ... with as many parameters as asked; 0 is a ReLU."""
    layers = [nn.Linear(size, 1, bias=False) if size else nn.ReLU() for size in sizes]
    return nn.Sequential(OrderedDict(zip("abcdefghij", layers, strict=False)))


FOUR = [["embedding", "lstm1"], ["lstm2"], ["lstm3"], ["softmax"]]


def test_the_language_model_in_four_stages() -> None:
    model = Lstm(units=6, layers=3).build(ModelContext(11))
    chains = partition(model, split_points=["lstm2", "lstm3", "softmax"])
    assert names(chains) == FOUR
    assert names(partition(model, stages=4)) == FOUR
    assert names(partition(model, stages=4, split_points=["lstm2", "lstm3", "softmax"])) == FOUR


def test_stages_in_a_row_equal_the_model() -> None:
    model = Lstm(units=6, layers=3).build(ModelContext(11))
    x = torch.randint(11, (2, 5))
    state = tuple(torch.randn_like(s) for s in model.initial_state(2))
    expected, expected_state = model(x, state)
    y, after = x, ()
    for chain in partition(model, split_points=["lstm2", "lstm3", "softmax"]):
        size = len(chain.initial_state(1))
        y, new = chain(y, state[:size])
        state, after = state[size:], after + new
    assert torch.equal(y, expected)
    assert all(torch.equal(a, b) for a, b in zip(after, expected_state, strict=True))


def test_layers_and_state_dict_keys_are_kept() -> None:
    model = Gru(units=6, layers=2).build(ModelContext(11))
    chains = partition(model, split_points=["gru2"])
    assert [key for chain in chains for key in chain.state_dict()] == list(model.state_dict())
    assert chains[1].gru2 is model.gru2
    assert "gru2.rnn.weight_ih_l0" in chains[1].state_dict()


def test_neither_stages_nor_names_is_one_stage() -> None:
    assert names(partition(sized(2, 3))) == [["a", "b"]]


@pytest.mark.parametrize(
    ("sizes", "stages", "expected"),
    [
        ((4, 3, 2, 1), 2, ["a", "bcd"]),  # 4 and 6; ab and cd would be 7 and 3
        ((1, 1, 1, 9), 2, ["abc", "d"]),
        ((5, 5, 5, 5), 2, ["ab", "cd"]),
        ((1, 1, 1), 2, ["a", "bc"]),  # a tie: the shortest first stage
        ((3, 0, 3, 0, 3), 3, ["ab", "cd", "e"]),  # a ReLU stays with the layer before it
        ((0, 3, 0, 3), 2, ["abc", "d"]),  # or with the first group, at the start
        ((2, 2, 2), 3, ["a", "b", "c"]),
    ],
)
def test_by_balance(sizes: tuple[int, ...], stages: int, expected: list[str]) -> None:
    assert names(partition(sized(*sizes), stages=stages)) == [list(part) for part in expected]


@settings(derandomize=True, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), data=st.data())
def test_no_cut_has_a_smaller_largest_part(sizes: list[int], data: st.DataObject) -> None:
    stages = data.draw(st.integers(1, len(sizes)))
    chains = partition(sized(*sizes), stages=stages)
    assert all(len(chain) for chain in chains)
    everything = combinations(range(1, len(sizes)), stages - 1)
    best = min(max(sum(sizes[i:j]) for i, j in pairwise([0, *cuts, len(sizes)])) for cuts in everything)
    assert max(sum(p.numel() for p in chain.parameters()) for chain in chains) == best


def test_names_may_cut_before_a_layer_without_parameters() -> None:
    assert names(partition(mlp(3, 4, 1, 2), split_points=["relu1"])) == [["layer1"], ["relu1", "output"]]


@pytest.mark.parametrize(
    ("split_points", "message"),
    [
        (["b", "x"], "no layer x; the layers are a, b, c"),
        (["c", "b"], r"\[c, b\] is out of order; use \[b, c\]"),
        (["b", "b"], r"\[b, b\] is out of order; use \[b\]"),
        (["a", "b"], "a is the first layer, before which there is no cut; leave it out"),
    ],
)
def test_names_that_cannot_be_cut_at(split_points: list[str], message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        partition(sized(1, 2, 3), split_points=split_points)


@pytest.mark.parametrize("stages", [0, 3])
def test_a_number_of_stages_that_is_impossible(stages: int) -> None:
    with pytest.raises(PartitionError, match=f"stages is {stages}, .* into 1 to 2, beginning at a, c"):
        partition(sized(1, 0, 2), stages=stages)


def test_stages_and_names_that_disagree() -> None:
    with pytest.raises(PartitionError, match="names 1 layers, which makes 2 stages, but stages is 3"):
        partition(sized(1, 2, 3), stages=3, split_points=["b"])


def test_a_parameter_shared_by_two_stages_is_refused() -> None:
    model = Lstm(units=6, layers=1).build(ModelContext(6))
    model.softmax.weight = model.embedding.weight
    message = r"embedding\.weight in stage 0 and softmax\.weight in stage 1 are the same parameter"
    with pytest.raises(PartitionError, match=message):
        partition(model, split_points=["softmax"])
    assert len(partition(model, stages=1)) == 1


def test_a_layer_used_twice() -> None:
    layer, relu = nn.Linear(2, 2), nn.ReLU()
    model = nn.Sequential(OrderedDict(one=layer, relu1=relu, two=layer, relu2=relu))
    with pytest.raises(PartitionError, match=r"one\.weight in stage 0 and two\.weight in stage 1"):
        partition(model, split_points=["two"])
    (whole,) = partition(model)
    x = torch.randn(3, 2)
    assert torch.equal(whole(x)[0], layer(layer(x).relu()).relu())


def test_only_a_row_of_layers_can_be_cut() -> None:
    with pytest.raises(PartitionError, match=r"cannot cut a Linear: put its layers into an nn\.Sequential"):
        partition(nn.Linear(2, 2), stages=1)  # type: ignore[arg-type]
    with pytest.raises(PartitionError, match="no layers to cut"):
        partition(nn.Sequential(), stages=1)


def test_a_stage_without_parameters_is_refused() -> None:
    model = nn.Sequential(OrderedDict(first=nn.Linear(2, 2), relu=nn.ReLU(), last=nn.Linear(2, 2)))
    with pytest.raises(PartitionError, match=r"stage 1 \(relu\) has no parameters"):
        partition(model, split_points=["relu", "last"])
