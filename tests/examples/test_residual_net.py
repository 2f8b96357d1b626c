"""examples/residual_net: skips that cross the cuts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from dni.models import ModelContext
from tests.support.examples import LOCKED, PROCESSES, Import, run, trained
from tests.support.pictures import pictures
from tests.support.runs import assert_same, parameters_of
from workers.config.settings import Config
from workers.launch.launcher import launch

RESIDUAL = {"_target_": "resnet.parts", "width": 2, "blocks": 3, "split_points": ["close0", "close1", "close2"]}


def image_run(folder: Path, **changes: Any) -> Config:
    data = {"kind": "cifar10", "path": str(folder), "batch": 8, "window": 1, "sequence": None}
    return run(RESIDUAL, data=data, **changes)


@pytest.mark.long
def test_the_residual_net_cut_inside_its_blocks_equals_the_unsplit_net_bit_for_bit(
    import_example: Import, tmp_path: Path
) -> None:
    resnet = import_example("residual_net", "resnet")
    config = image_run(pictures(tmp_path / "data"), **LOCKED, **PROCESSES)
    launch(config, tmp_path / "run")
    built: list[nn.Module] = []

    def unsplit(context: ModelContext) -> Callable[[Tensor], Tensor]:
        built.append(resnet.whole(context, width=2, blocks=3))
        return built[0]

    trained(config, unsplit)
    found = {unsplit_name(name): value for name, value in parameters_of(tmp_path / "run", 4).items()}
    assert any(name.endswith("running_var") for name in found)
    assert_same(found, dict(built[0].state_dict()))


def unsplit_name(name: str) -> str:
    """Return the name in `resnet.whole` of a parameter or statistic of the parts."""
    part, _, inner = name.partition(".")
    places = {"stem": 0, "scores": 4}
    return f"{places[part] if part in places else 1 + int(part[-1])}.{inner}"


@pytest.mark.long
@pytest.mark.parametrize("method", ["synthetic", "local"])
def test_the_residual_net_learns_with_other_methods(method: str, import_example: Import, tmp_path: Path) -> None:
    import_example("residual_net", "resnet")
    data, rate = pictures(tmp_path / "data", train=400, bright=150), {"learning_rate": 1e-2}
    depth = {"method": method, "lag": 1}
    short, long = (
        launch(image_run(data, depth=depth, steps=steps, optimizer=rate), tmp_path / str(steps)).summary
        for steps in (2, 80)
    )
    assert long["valid"]["loss"] < 0.9 * short["valid"]["loss"]
