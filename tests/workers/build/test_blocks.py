"""Blocks like the model's, for heads: of a class, a function, or a traced module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.errors import ConfigError
from tests.support.examples import run
from tests.support.runs import assert_same, tiny
from workers.build.data import resolve
from workers.build.heads.blocks import blocks_like
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.launch.accept import refuse_early

GPT: dict[str, Any] = {"_target_": "gpt.parts", "layers": 2, "width": 16, "heads": 2, "context_length": 8}
OWN: dict[str, Any] = {"_target_": "network.build", "width": 8, "blocks": 4}


@pytest.fixture(autouse=True)
def _examples_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("char_gpt", "own_model"):
        monkeypatch.syspath_prepend(Path(__file__).parents[3] / "examples" / name)


def settled(model: dict[str, Any], **changes: Any) -> Config:
    return resolve(run(model, **{"stages": 2, **changes}))[0]


def parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    return {str(n): each for n, each in enumerate(module.parameters())}


def layers(config: Config) -> dict[str, nn.Module]:
    return {name: layer for chain in build_chains(config) for name, layer in chain.named_children()}


@pytest.mark.parametrize(
    ("split_points", "nearest"), [(["block1"], "block0"), (["scores"], "block1"), (["block0"], "block0")]
)
def test_a_block_is_the_nearest_of_the_models_own_with_its_initial_weights(
    split_points: list[str], nearest: str
) -> None:
    config = settled({**GPT, "split_points": split_points})
    made = blocks_like(config, 0, (16,), 1)
    assert made is not None
    assert_same(parameters(made), parameters(layers(config)[nearest]))


def test_several_blocks_have_weights_of_their_own() -> None:
    made = blocks_like(settled(GPT), 0, (16,), 2)
    assert made is not None
    assert len({id(each) for each in made.parameters()}) == 12
    assert made(torch.zeros(3, 5, 16)).shape == (3, 5, 16)


def test_the_random_state_stays_as_it_was() -> None:
    config = settled(GPT)
    before = torch.get_rng_state()
    blocks_like(config, 0, (16,), 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_block_of_a_traced_module_takes_the_value_alone_though_more_crosses_the_cut() -> None:
    config = settled(OWN)
    made = blocks_like(config, 0, (8,), 1)
    assert made is not None
    weight, bias = made.parameters()
    value = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(made(value), value + nn.functional.gelu(value @ weight.T + bias))


@pytest.mark.parametrize(("kind", "found"), [("lstm", True), ("residual", True), ("mlp", False), ("transformer", True)])
def test_models_of_the_package_have_blocks_but_for_single_layers(kind: str, found: bool) -> None:
    config, _ = resolve(tiny(model={"kind": kind, "units": 8, "layers": 3}))
    assert (blocks_like(config, 0, (8,), 1) is not None) == found


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_critic_of_target_gradients_needs_second_derivatives(weight: float) -> None:
    config = settled(GPT, predictor={"depth": {"kind": "block_head", "gradient_weight": weight}})
    if not weight:
        refuse_early(config)
        return
    with pytest.raises(ConfigError, match="needs second derivatives, which the head of stage 0 lacks"):
        refuse_early(config)


def test_a_traced_module_on_the_meta_device_is_traced_anew_elsewhere() -> None:
    config = settled(OWN)
    with torch.device("meta"):
        build_chains(config)
    assert {each.device.type for chain in build_chains(config) for each in chain.parameters()} == {"cpu"}
