"""examples/gpt2: GPT-2 of `transformers` in four stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dni.models import ModelContext
from tests.support.examples import LOCKED, PROCESSES, Import, run, trained
from tests.support.runs import assert_same, parameters_of
from workers.launch.launcher import launch


class Scores(nn.Module):
    """A model of `transformers`, from symbols to scores."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.model(x, use_cache=False).logits
        return scores


GPT2 = {"_target_": "gpt2.parts", "layers": 4, "width": 16, "heads": 2, "positions": 8}


TIED = {**GPT2, "tie": True, "tied": "sum"}


@pytest.mark.long
@pytest.mark.parametrize("model", [GPT2, TIED], ids=["own scores", "tied"])
def test_gpt2_in_four_processes_equals_transformers_bit_for_bit(
    model: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    gpt2 = import_example("gpt2", "gpt2")
    config = run(model, steps=10, **LOCKED, **PROCESSES)
    launch(config, tmp_path)
    built: list[nn.Module] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(gpt2.whole(context, layers=4, width=16, heads=2, positions=8, tie="tie" in model))
        return Scores(built[0])

    trained(config, whole)
    split, unsplit = parameters_of(tmp_path, 4), built[0].state_dict()
    for name, value in split.items():
        assert torch.equal(value, unsplit[gpt2_name(name)]), name
    assert len(split) == len(unsplit)


def gpt2_name(name: str) -> str:
    """Return the name in `GPT2LMHeadModel` of a parameter of the parts."""
    part, _, inner = name.partition(".")
    if part == "embedding":
        return f"transformer.{inner}"
    if part == "scores":
        return {"0": "transformer.ln_f", "1": "lm_head"}[inner[0]] + inner[1:]
    return f"transformer.h.{part[1:]}.{inner.partition('.')[2]}"


@pytest.mark.parametrize(
    ("method", "model"), [("synthetic", GPT2), ("local", GPT2), ("delayed", GPT2), ("synthetic", TIED)]
)
@pytest.mark.long
def test_gpt2_learns_with_other_methods(
    method: str, model: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    import_example("gpt2", "gpt2")
    rate = {"learning_rate": 3e-3}
    short, long = (
        launch(run(model, depth={"method": method}, steps=steps, optimizer=rate), tmp_path / str(steps)).summary
        for steps in (2, 80)
    )
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]


@pytest.mark.long
def test_gpt2_trains_in_a_pipeline(import_example: Import, tmp_path: Path) -> None:
    import_example("gpt2", "gpt2")
    pipeline = {"method": "1f1b", "microbatches": 4}
    launch(run(GPT2, steps=10, depth=pipeline, optimizer={"clip": None}, **PROCESSES), tmp_path / "pipeline")
    launch(run(GPT2, steps=10, **LOCKED), tmp_path / "backprop")
    split, whole = (parameters_of(tmp_path / name, 4) for name in ("pipeline", "backprop"))
    assert max((split[name] - whole[name]).abs().max().item() for name in whole) < 1e-5


@pytest.mark.long
def test_gpt2_goes_on_in_two_and_then_three_stages(import_example: Import, tmp_path: Path) -> None:
    import_example("gpt2", "gpt2")
    plan = {"optimizer": {"clip": None, "schedule": {"kind": "constant"}}, "depth": {"method": "backprop"}}
    launch(run(GPT2, steps=9, **plan), tmp_path / "whole")
    launch(run(GPT2, steps=3, **plan), tmp_path / "four")
    launch(run(GPT2, steps=6, resume=str(tmp_path / "four"), **{**plan, "stages": 2}), tmp_path / "two")
    launch(run(GPT2, steps=9, resume=str(tmp_path / "two"), **{**plan, "stages": 3}), tmp_path / "three")
    assert_same(parameters_of(tmp_path / "three", 3), parameters_of(tmp_path / "whole", 4))
