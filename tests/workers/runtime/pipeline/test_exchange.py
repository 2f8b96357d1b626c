"""Pipelines with tied weights, or clipped by the norm of all stages, equal locked stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.ranks import PROCESSES, Ranks
from tests.support.runs import assert_close, parameters_of, tiny
from workers.launch.launcher import launch

pytestmark = [pytest.mark.timeout(120), pytest.mark.long]

TIED = {"_target_": "tests.support.stages.tied_model.tied", "width": 8, "tied": "sum"}
GLOBAL = {"clip": 0.05, "clip_norm": "global"}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as started:
        yield started


@pytest.mark.parametrize(
    ("method", "stages", "chunks", "model", "optimizer"),
    [
        ("1f1b", 4, 1, {**TIED, "hidden": 2}, {"clip": 0.05}),
        ("interleaved_1f1b", 2, 2, {**TIED, "hidden": 2}, {"clip": 0.05}),
        ("zero_bubble", 2, 3, {**TIED, "hidden": 4, "uses": 3}, GLOBAL),
        ("gpipe", 3, 1, {"kind": "lstm", "units": 8, "layers": 4}, GLOBAL),
    ],
)
def test_it_equals_locked_stages(
    method: str,
    stages: int,
    chunks: int,
    model: dict[str, Any],
    optimizer: dict[str, Any],
    ranks: Ranks,
    tmp_path: Path,
) -> None:
    virtual = {"virtual_stages": chunks} if chunks > 1 else {}
    depth = {"microbatches": 2 if method == "gpipe" else 4, **virtual}
    settings = {"model": model, "data": {"batch": 8}, "optimizer": optimizer}
    config = tiny(stages=stages, depth={"method": method, **depth}, **settings, **PROCESSES)
    outcomes = ranks.run(config, tmp_path / "pipe")
    assert not [each for each in outcomes if isinstance(each, BaseException)], outcomes
    plain = tiny(stages=config.parts, depth={"method": "backprop"}, **settings)
    launch(plain, tmp_path / "plain")
    found, expected = (parameters_of(tmp_path / name, config.parts) for name in ("pipe", "plain"))
    assert_close(found, expected, 1e-5)
    if "tied" in model:
        assert torch.equal(found["0.weight"], found[[name for name in found if name.endswith("weight")][-1]])
