"""model.dropout: its place in the models, separate masks of each stage, and no dropout outside training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.interfaces.oracle import OracleInterface
from dni.models import Cnn, Gru, Lstm, MinGru, Mlp, MlpBn, ModelContext, Resnet, SegmentTransformer, Transformer
from dni.recurrent import Chain, pack
from dni.rng import is_stochastic
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.build.stage import build_stage
from workers.config.settings import Config
from workers.launch.launcher import launch

RATE = 0.4


def made(kind: str, dropout: float) -> Chain:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"units": 8, "layers": 2, "dropout": dropout}
    if kind in ("mlp_bn", "cnn", "resnet"):
        images = {"mlp_bn": MlpBn, "cnn": Cnn, "resnet": Resnet}[kind](**sizes)
        return images.build(ModelContext(7, 0, (1, 8, 8)))
    if kind == "mlp":
        return Mlp(**sizes).build(ModelContext(7))
    if kind == "transformer":
        return Transformer(**sizes | {"layers": 3}, heads=2, memory=4).build(ModelContext(7))
    return {"lstm": Lstm, "gru": Gru, "mingru": MinGru}[kind](**sizes | {"layers": 3}).build(ModelContext(7))


PLACES = {
    "lstm": ["dropout1", "dropout2"],
    "gru": ["dropout1", "dropout2"],
    "mingru": ["dropout1", "dropout2"],
    "transformer": [f"transformer{n}.{place}" for n in (1, 2, 3) for place in ("feed_forward.1.1", "drop")],
    "mlp": ["dropout1", "dropout2"],
    "mlp_bn": ["layer1.2.1", "layer2.2.1"],
    "cnn": ["softmax.0.1"],
    "resnet": ["softmax.1.1"],
}


@pytest.mark.parametrize("kind", PLACES)
def test_where_it_is(kind: str) -> None:
    """Parameters have the same names and first values as without dropout."""
    plain, dropping = made(kind, 0.0), made(kind, RATE)
    found = {name: m for name, m in dropping.named_modules() if isinstance(m, nn.Dropout)}
    assert list(found) == PLACES[kind]
    assert {m.p for m in found.values()} == {RATE}
    assert (is_stochastic(plain), is_stochastic(dropping)) == (False, True)
    assert_same(plain.state_dict(), dropping.state_dict())


def test_it_follows_the_layers_it_is_named_after() -> None:
    between = ["embedding", "lstm1", "dropout1", "lstm2", "dropout2", "lstm3", "softmax"]
    assert [name for name, _ in made("lstm", RATE).named_children()] == between
    after = ["embedding", "layer1", "relu1", "dropout1", "layer2", "relu2", "dropout2", "softmax"]
    assert [name for name, _ in made("mlp", RATE).named_children()] == after


def test_a_transformer_drops_what_torchs_own_layer_drops() -> None:
    """Compare attention weights, attention output, and hidden and last layer of the feed-forward part, one by one."""
    torch.manual_seed(0)
    layer, shapes = SegmentTransformer(8, heads=2, memory=4, dropout=RATE), []
    for module in layer.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda _, inputs, output: shapes.append(tuple(inputs[0].shape)))
    x = torch.randn(3, 5, 8)
    layer(x)
    assert shapes == [(3, 2, 5, 9), (3, 5, 8), (3, 5, 32), (3, 5, 8)]
    torch.manual_seed(0)
    plain = SegmentTransformer(8, heads=2, memory=4)
    assert torch.equal(layer.eval()(x)[0], plain(x)[0])


def config_of(stages: int, kind: str, **more: Any) -> Config:
    model = {"kind": kind, "dropout": RATE, **({"heads": 2, "memory": 8} if kind == "transformer" else {})}
    return tiny(**{"stages": stages, "model": model, "depth": {"method": "backprop"}, **more})


@pytest.mark.parametrize(("stages", "kind"), [(1, "lstm"), (3, "lstm"), (2, "transformer"), (3, "mlp")])
def test_stages_equal_the_unsplit_model_that_draws_what_they_draw(stages: int, kind: str, tmp_path: Path) -> None:
    config = config_of(stages, kind)
    launch(config, tmp_path)
    trained = parameters_of(tmp_path, stages)
    assert_same(trained, plain_training(config))
    config.model.dropout = 0.0
    assert not torch.equal(trained["softmax.weight"], plain_training(config)["softmax.weight"])


def test_every_stage_draws_its_own_and_nothing_in_evaluation() -> None:
    config, _ = resolve(config_of(3, "mlp"))
    config.model.split_points = ["layer2", "layer3"]
    stages = [build_stage(config, k) for k in (0, 1)]
    x = torch.randint(0, config.model.symbols or 0, (4, 6))
    masks, activations = [], []
    for stage in stages:
        drop = next(m for m in stage.module.modules() if isinstance(m, nn.Dropout))
        drop.register_forward_hook(lambda _, inputs, output: masks.append(output != 0))
        drop.register_forward_hook(lambda _, inputs, output: activations.append(inputs[0] != 0))
        x, _ = stage.forward(x)
    both = activations[0] & activations[1]
    assert not torch.equal(masks[0][both], masks[1][both])
    assert masks[0][activations[0]].float().mean().item() == pytest.approx(1 - RATE, abs=0.15)

    first = stages[0]
    symbols, before = torch.randint(0, 5, (4, 6)), first.state_dict()["random"]["cpu"].clone()
    measured = [first.evaluate(symbols) for _ in range(2)]
    whole = build_chains(config)[0].eval()
    assert torch.equal(measured[0], measured[1])
    assert torch.equal(measured[0], whole(symbols)[0])
    assert torch.equal(first.state_dict()["random"]["cpu"], before)


#: Windows that are run again, as a horizon and when their gradient has come.
AGAIN: dict[str, dict[str, Any]] = {
    "horizon": {
        "depth": {"method": "synthetic", "lag": 1},
        "time": {"method": "lambda_return", "horizon": 2, "lambda_": 0},
    },
    "late": {"depth": {"method": "delayed", "lag": 1, "stash": False}},
}


@pytest.mark.parametrize("way", AGAIN)
def test_a_resumed_run_equals_one_that_never_stopped(way: str, tmp_path: Path) -> None:
    def config(**more: Any) -> Config:
        return config_of(3, "lstm", **{**AGAIN[way], **more})

    launch(config(), tmp_path / "whole")
    launch(config(checkpoint={"every": 5, "keep": 9}), tmp_path / "saved")
    launch(config(resume=str(tmp_path / "saved"), resume_step=5), tmp_path / "part")
    assert_same(parameters_of(tmp_path / "whole", 3), parameters_of(tmp_path / "part", 3))


def test_an_oracle_drops_and_draws_nothing() -> None:
    answers = []
    inputs = labels = torch.randint(0, 7, (2, 5))
    for dropout in (0.0, RATE):
        model = made("lstm", dropout)
        random, state = torch.get_rng_state(), torch.full_like(pack(model.initial_state(2)), 0.1)
        answer = OracleInterface(model, lambda: (inputs, labels)).gradient(1, state, None)
        assert isinstance(answer, Tensor)
        answers.append(answer)
        assert torch.equal(torch.get_rng_state(), random)
        assert model.training
    assert torch.equal(*answers)
