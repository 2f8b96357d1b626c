"""model.init: the distribution of the weights, which does not depend on where a model is cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dni.errors import ConfigError
from dni.models import GRU, LSTM, MinGRU, ModelContext, Resnet, SegmentTransformer, initialise
from tests.support.runs import assert_same, tiny
from workers.build.data import resolve
from workers.build.model import build_chains

#: Layers with many weights, and of each matrix the rows of a map, fan in and fan out.
MAPS: list[tuple[nn.Module, dict[str, tuple[int, int, int]]]] = [
    (nn.Linear(60, 90), {"weight": (90, 60, 90)}),
    (nn.Conv2d(12, 20, 5), {"weight": (20, 12 * 25, 20 * 25)}),
    (LSTM(50, 70), {"rnn.weight_ih_l0": (70, 50, 70), "rnn.weight_hh_l0": (70, 70, 70)}),
    (GRU(50, 70), {"rnn.weight_ih_l0": (70, 50, 70), "rnn.weight_hh_l0": (70, 70, 70)}),
    (MinGRU(60, 70), {"gate.weight": (70, 60, 70), "candidate.weight": (70, 60, 70)}),
]


@pytest.mark.parametrize(("layer", "maps"), MAPS)
@pytest.mark.parametrize("scheme", ["xavier", "he"])
def test_the_spread_of_every_matrix_and_biases_of_zero(
    scheme: str, layer: nn.Module, maps: dict[str, tuple[int, int, int]]
) -> None:
    torch.manual_seed(0)
    initialise(layer, scheme)
    for name, parameter in layer.named_parameters():
        if name not in maps:
            assert "bias" in name
            assert not parameter.any()
            continue
        rows, fan_in, fan_out = maps[name]
        for gate in parameter.split(rows):
            variance = 2 / (fan_in + fan_out) if scheme == "xavier" else 2 / fan_in
            assert gate.var().item() == pytest.approx(variance, rel=0.1)
            assert gate.mean().item() == pytest.approx(0, abs=4 * math.sqrt(variance / gate.numel()))
            largest = gate.abs().max().item() / math.sqrt(variance)
            assert (0.98 * math.sqrt(3) < largest <= math.sqrt(3)) == (scheme == "xavier")


def test_embeddings_norms_and_zero_layers_keep_their_weights() -> None:
    embedding, transformer = nn.Embedding(5, 4), SegmentTransformer(8, 2, 4)
    before = embedding.weight.clone()
    model = nn.Sequential(embedding, transformer, Resnet(units=4, layers=1).build(ModelContext(10, 0, (1, 8, 8))))
    initialise(model, "he")
    assert torch.equal(embedding.weight, before)
    assert not transformer.distance.any()
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)]
    assert len(norms) == 2 + 9
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.bias.any()


@pytest.mark.parametrize("scheme", ["xavier", "he"])
@pytest.mark.parametrize("kind", ["lstm", "mlp"])
def test_the_first_weights_are_those_of_the_seed_however_it_is_cut(kind: str, scheme: str) -> None:
    def weights(stages: int, seed: int = 3) -> dict[str, Tensor]:
        config, _ = resolve(tiny(stages=stages, seed=seed, model={"kind": kind, "init": scheme}))
        return {name: value for chain in build_chains(config) for name, value in chain.state_dict().items()}

    whole = weights(1)
    for stages in (2, 3, 4):
        assert_same(weights(stages), whole)
    assert not torch.equal(weights(1, seed=4)["softmax.weight"], whole["softmax.weight"])


def test_another_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="no initialisation named 'zeros': use xavier, he"):
        initialise(nn.Linear(1, 1), "zeros")
