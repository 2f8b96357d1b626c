"""examples/encoder_decoder: named tensors, masks and rows of different lengths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from dni.models import ModelContext
from tests.support.examples import LOCKED, PROCESSES, Import, run, trained
from tests.support.runs import assert_same, parameters_of
from workers.config.settings import Config
from workers.launch.launcher import launch

REVERSAL: dict[str, Any] = {"_target_": "reverse.data", "batch": 16, "window": 1, "letters": 4, "longest": 5}


def reversal(**changes: Any) -> Config:
    model = {"_target_": "reverse.parts", "layers": 2, "width": 16, "heads": 2, "longest": 5}
    return run(model, **{"data": {**REVERSAL, "sequence": None}, **changes})


@pytest.mark.parametrize("more", [{}, pytest.param(PROCESSES, marks=pytest.mark.long)])
def test_the_encoder_decoder_equals_the_unsplit_model(
    more: dict[str, Any], import_example: Import, tmp_path: Path
) -> None:
    reverse = import_example("encoder_decoder", "reverse")
    launch(reversal(**LOCKED, **more), tmp_path)
    built: list[nn.Sequential] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(nn.Sequential(OrderedDict(reverse.parts(context, layers=2, width=16, heads=2, longest=5))))
        return built[0]

    trained(reversal(**LOCKED), whole)
    assert_same(parameters_of(tmp_path, 4), dict(built[0].state_dict()))


@pytest.mark.long
@pytest.mark.parametrize("method", ["backprop", "synthetic"])
def test_the_encoder_decoder_learns(method: str, import_example: Import, tmp_path: Path) -> None:
    """Guessing is right in a fifth of the places."""
    import_example("encoder_decoder", "reverse")
    evaluated = {"every": None, "windows": 8}
    config = reversal(depth={"method": method}, steps=200, optimizer={"learning_rate": 3e-3}, evaluate=evaluated)
    assert launch(config, tmp_path).summary["valid"]["accuracy"] > 0.5


@pytest.mark.long
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_the_encoder_decoder_in_a_pipeline_equals_locked_stages(
    schedule: str, import_example: Import, tmp_path: Path
) -> None:
    """The rows of its batches, padded to the longest, are split into microbatches."""
    import_example("encoder_decoder", "reverse")
    plain = {"kind": "sgd", "learning_rate": 0.1, "clip": None}  # Adam turns rounding into steps of its full rate
    pipeline = {"method": schedule, "microbatches": 4}
    launch(reversal(depth=pipeline, optimizer=plain, **PROCESSES), tmp_path / "pipeline")
    launch(reversal(depth={"method": "backprop"}, optimizer=plain), tmp_path / "backprop")
    split, whole = (parameters_of(tmp_path / name, 4) for name in ("pipeline", "backprop"))
    assert max((split[name] - whole[name]).abs().max().item() for name in whole) < 1e-5
