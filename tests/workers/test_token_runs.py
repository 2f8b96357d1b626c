"""Runs on token ids: trained in processes, resumed exactly, measured, and ended by an id that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni.errors import ResumeError
from tests.support.commands import LOCAL, SMALL, Command
from tests.support.runs import assert_near, assert_same, parameters_of, plain_training, tiny
from workers.cli.evaluate import evaluate
from workers.config.settings import Config
from workers.launch.launcher import launch

IDS = np.random.default_rng(0).integers(50, size=2000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, ids in {"train": IDS, "valid": IDS[:400], "test": IDS[400:600]}.items():
        ids.astype("<u2").tofile(tmp_path / f"{part}.bin")
    (tmp_path / "meta.json").write_text('{"vocab_size": 50}')
    return tmp_path


def on_tokens(folder: Path, sampling: str, **changes: Any) -> Config:
    data = {"kind": "tokens", "path": str(folder), "sampling": sampling}
    changes = {"depth": {"method": "backprop"}, "checkpoint": {"every": 4, "keep": 9}} | changes
    return tiny(data=data, **changes)


@pytest.mark.parametrize("sampling", ["streams", "random"])
@pytest.mark.long
def test_they_train_go_on_and_are_measured(folder: Path, tmp_path: Path, sampling: str) -> None:
    processes: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
    launch(on_tokens(folder, sampling, **processes), tmp_path / "whole")
    assert_near(parameters_of(tmp_path / "whole", 2), plain_training(on_tokens(folder, sampling)))
    launch(on_tokens(folder, sampling, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    found = evaluate(tmp_path / "again")
    # 4 streams of 50 tokens; sequences of 18, of which 2 fit
    assert (found["split"], found["labels"], found["data"]["name"]) == ("test", 4 * 36, folder.name)


def test_other_files_are_other_data(folder: Path, tmp_path: Path) -> None:
    launch(on_tokens(folder, "streams"), tmp_path / "run")
    (IDS + 1).clip(max=49).astype("<u2").tofile(folder / "train.bin")
    with pytest.raises(ResumeError, match=r"data\.sha256 was"):
        launch(on_tokens(folder, "streams", steps=20, resume=str(tmp_path / "run")), tmp_path / "again")


@pytest.mark.long
def test_an_id_that_cannot_be_ends_the_run_in_one_line(folder: Path, tmp_path: Path) -> None:
    ids = IDS.copy()
    ids[100] = 60
    ids.astype("<u2").tofile(folder / "train.bin")
    words = (*SMALL, *LOCAL, "data=tokens", f"data.path={folder}", "steps=50")
    with Command(tmp_path, words) as command:
        ended = command.finish()
    assert ended.code == 2
    (line,) = [line for line in ended.err if line.startswith("dni-train")]
    assert "train.bin: the token at position 100 is 60, outside 0 to 49: set data.vocabulary" in line
