"""A locked run that is cut elsewhere on its way, as if it had been cut so from the start: 4, 2 and 3 stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.pictures import digits
from tests.support.runs import assert_close, assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.tracking.run import METRICS, read_metrics

COSINE = {"learning_rate": 1e-2, "clip": None, "schedule": {"kind": "cosine", "decay_steps": 15}}
LOCKED: dict[str, Any] = {
    "depth": {"method": "backprop"}, "time": {"method": "truncated"}, "optimizer": COSINE, "log_every": 1,
}  # fmt: skip
PIPELINE: dict[str, Any] = {
    **LOCKED, "depth": {"method": "1f1b", "microbatches": 4}, "transport": {"kind": "grpc"},
    "launch": {"mode": "processes"},
}  # fmt: skip


def text(**changes: Any) -> Config:
    return tiny(**{**LOCKED, "model": {"layers": 3}, **changes})


def losses(run: Path) -> dict[int, float]:
    """Of every training step, as the last stage of its time measured them."""
    records = [record for record in read_metrics(run / METRICS) if record["kind"] == "train"]
    return {record["step"]: record["loss"] for record in records if record["loss"] is not None}


def in_three_sittings(config: Any, base: Path) -> Path:
    """Five steps on 4 stages, five on 2, five on 3: each in a folder of its own."""
    launch(config(steps=5, stages=4), base / "four")
    launch(config(steps=10, stages=2, resume=str(base / "four")), base / "two")
    launch(config(steps=15, stages=3, resume=str(base / "two")), base / "three")
    return base / "three"


def moments(run: Path) -> dict[str, torch.Tensor]:
    """What Adam keeps, by the names of parameters."""
    step = checkpoint.complete_steps(run)[-1]
    found: dict[str, torch.Tensor] = {}
    for part in range(checkpoint.stages_of(run, step)):
        state = checkpoint.load(run, step, part)["stage"]
        for index, name in enumerate(state["module"]):  # these models have parameters in the order of their names
            found |= {f"{name} {key}": value for key, value in state["optimizer"]["state"][index].items()}
    return found


def test_a_locked_text_run_goes_on_bit_for_bit_on_other_numbers_of_stages(tmp_path: Path) -> None:
    """Three LSTM layers with a carried state, in a sequence that no sitting begins or ends with."""
    moved = in_three_sittings(text, tmp_path)
    launch(text(steps=15, stages=1), tmp_path / "whole")
    assert losses(moved) == losses(tmp_path / "whole")
    assert [*losses(moved)] == [*range(1, 16)]
    assert_same(parameters_of(moved, 3), parameters_of(tmp_path / "whole", 1))
    assert_same(moments(moved), moments(tmp_path / "whole"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(tmp_path_factory.mktemp("digits"), train=200)


def test_a_locked_image_run_with_batch_norm_goes_on_bit_for_bit(pictures: Path, tmp_path: Path) -> None:
    def image(**changes: Any) -> Config:
        data = {"kind": "mnist", "path": str(pictures), "batch": 8, "window": 1, "sequence": None}
        return tiny(**{**LOCKED, "model": {"kind": "mlp_bn", "units": 6, "layers": 4}, "data": data, **changes})

    moved = in_three_sittings(image, tmp_path)
    launch(image(steps=15, stages=1), tmp_path / "whole")
    assert losses(moved) == losses(tmp_path / "whole")
    assert_same(parameters_of(moved, 3), parameters_of(tmp_path / "whole", 1))


@pytest.mark.timeout(240)
@pytest.mark.long
def test_a_pipeline_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    moved = in_three_sittings(lambda **changes: text(**{**PIPELINE, **changes}), tmp_path)
    launch(text(**PIPELINE, steps=15, stages=2), tmp_path / "whole")
    here, there = losses(moved), losses(tmp_path / "whole")
    assert [*here] == [*there] == [*range(1, 16)]
    assert max(abs(here[step] - there[step]) for step in here) < 2.5e-6
    assert_close(parameters_of(moved, 3), parameters_of(tmp_path / "whole", 2), within=1e-5)
