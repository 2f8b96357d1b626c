"""The tensors at the cuts are found once a start, whoever asks, and anew at the next start."""

from __future__ import annotations

import pytest

from tests.support.runs import tiny
from workers.build import shapes
from workers.build.data import resolve
from workers.config.settings import Config
from workers.launch.accept import refuse_early
from workers.runtime.assembly import contents_of

Specs = list[dict[str, shapes.TensorSpec]]


def test_a_start_builds_the_model_once_for_all_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    search = shapes._specs_of_cuts

    def counted(config: Config) -> Specs:
        found.append(config.stages)
        return search(config)

    monkeypatch.setattr(shapes, "_specs_of_cuts", counted)
    config, _ = resolve(tiny(stages=3))
    refuse_early(config)
    assert [contents_of(config, stage).value[""].shape for stage in (1, 2)] == [(8,), (8,)]
    assert found == [3]
    refuse_early(config)
    assert found == [3, 3]


def test_other_settings_have_other_tensors() -> None:
    narrow, wide = (resolve(tiny(model={"units": units}))[0] for units in (8, 5))
    for config, units in ((narrow, 8), (wide, 5), (narrow, 8)):
        assert shapes.activation_shape(config, 0) == (units,)
