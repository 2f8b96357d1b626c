"""examples/char_gpt learns."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import Import, run
from tests.support.runs import assert_same
from workers.launch.launcher import launch
from workers.storage import checkpoint


def test_the_gpt_of_characters_learns(import_example: Import, tmp_path: Path) -> None:
    import_example("char_gpt", "gpt")
    model = {"_target_": "gpt.parts", "layers": 2, "width": 16, "heads": 2, "context_length": 8}
    short, long = (
        launch(run(model, steps=steps, optimizer={"learning_rate": 3e-3}, depth={"method": "backprop"}),
               tmp_path / str(steps)).summary
        for steps in (2, 80)
    )  # fmt: skip
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]


@pytest.mark.parametrize("depth", ["synthetic", "corrected", "local"])
def test_its_blocks_are_those_of_the_heads(depth: str, import_example: Import, tmp_path: Path) -> None:
    import_example("char_gpt", "gpt")
    model = {"_target_": "gpt.parts", "layers": 2, "width": 16, "heads": 2, "context_length": 8}
    plan = {"stages": 2, "depth": {"method": depth, "lag": 1}, "predictor": {"depth": {"kind": "block_head"}}}
    launch(run(model, steps=6, **plan), tmp_path / "whole")
    launch(run(model, steps=3, **plan), tmp_path / "parts")
    launch(run(model, steps=6, resume=str(tmp_path / "parts"), **plan), tmp_path / "resumed")
    whole, resumed = (checkpoint.load(tmp_path / name, 6, 0) for name in ("whole", "resumed"))
    assert_same(whole["stage"]["module"], resumed["stage"]["module"])
    place = "head" if depth == "local" else "predictor"
    assert_same(whole["depth"][place], resumed["depth"][place])
    assert any("query_key_value" in name for name in whole["depth"][place])
