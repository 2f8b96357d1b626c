"""examples/own_model: in locked training it equals the unsplit module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from dni.models import ModelContext
from tests.support.examples import LOCKED, PROCESSES, Import, run, trained
from tests.support.runs import assert_same, parameters_of
from workers.launch.launcher import launch


@pytest.mark.long
def test_a_model_of_ones_own_equals_the_unsplit_module(import_example: Import, tmp_path: Path) -> None:
    module = import_example("own_model", "network")
    config = run({"_target_": "network.build", "width": 8, "blocks": 4}, **LOCKED, **PROCESSES)
    launch(config, tmp_path)
    built: list[nn.Module] = []

    def whole(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(module.build(context, width=8, blocks=4))
        return built[0]

    trained(config, whole)
    found = {name.partition(".part.")[2]: value for name, value in parameters_of(tmp_path, 4).items()}
    assert_same(found, dict(built[0].state_dict()))
