"""Damaged checkpoints: every damage is detected and named, and a run falls back to a whole one."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dni.errors import CheckpointError, DamagedCheckpoint
from tests.support.workers.checkpoints import TREE, same, save
from workers.storage import checkpoint


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_json(path: Path) -> None:
    path.write_text("[1]")


def no_digest(path: Path) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "sha256"}))


def other_tensor(path: Path) -> None:
    path.write_text(path.read_text().replace("layer.bias", "layer.boas"))


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("json", cut), ("json", empty), ("json", other_json), ("json", no_digest), ("json", other_tensor),
        ("json", os.remove), ("safetensors", cut), ("safetensors", empty), ("safetensors", os.remove),
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_stage_and_step(kind: str, damage: Any, tmp_path: Path) -> None:
    save(tmp_path, 20, 1)
    damage(checkpoint.folder_of(tmp_path, 20) / f"stage-1.{kind}")
    with pytest.raises(CheckpointError, match=rf"^stage 1, step 20: .*step-00000020/stage-1\.{kind} "):
        checkpoint.load(tmp_path, 20, 1)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_every_flipped_bit_is_detected(kind: str, tmp_path: Path) -> None:
    """Each of the first 700 bits (opening, digest), then every 13th, which covers all eight bit positions."""
    save(tmp_path, 20, 0, of=1)
    path = checkpoint.folder_of(tmp_path, 20) / f"stage-0.{kind}"
    whole = path.read_bytes()
    bits = [*range(700), *range(700, 8 * len(whole), 13)]
    noticed = []
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            checkpoint.load(tmp_path, 20, 0)
        except DamagedCheckpoint as error:
            noticed += [bit] * (f"stage-0.{kind} is damaged: " in str(error))
    assert noticed == bits
    path.write_bytes(whole)
    assert same(TREE, checkpoint.load(tmp_path, 20, 0))


def test_files_of_another_step_or_stage_are_detected(tmp_path: Path) -> None:
    """Undamaged files in the place of another step or stage."""
    for step in (220, 240):
        save(tmp_path, step, 0, 1)
    earlier, later = (checkpoint.folder_of(tmp_path, step) for step in (220, 240))
    for name in ("stage-1.json", "stage-1.safetensors"):
        shutil.copy(earlier / name, later / name)
    with pytest.raises(
        DamagedCheckpoint, match=r"step-00000240/stage-1\.json is damaged: it belongs to step 220, not to"
    ):
        checkpoint.verify(tmp_path, 240)
    for end in ("json", "safetensors"):
        shutil.copy(earlier / f"stage-0.{end}", earlier / f"stage-1.{end}")
    with pytest.raises(
        DamagedCheckpoint, match=r"step-00000220/stage-1\.json is damaged: it belongs to stage 0, not to"
    ):
        checkpoint.verify(tmp_path, 220)
    save(tmp_path, 300, 0, 1)
    checkpoint.save(tmp_path, 1, 3, 300, TREE)
    with pytest.raises(
        DamagedCheckpoint, match=r"step-00000300/stage-1\.json belongs to a run of 3 stages, the files before"
    ):
        checkpoint.verify(tmp_path, 300)
    with pytest.raises(CheckpointError, match=r"step-00000300/stage-0\.json belongs to a run of 2 stages, not 4"):
        checkpoint.load(tmp_path, 300, 0, 4)


def test_the_newest_whole_checkpoint_is_found_and_damage_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 40, 1)  # incomplete when the run ended
    assert checkpoint.newest_whole(tmp_path) == 30
    assert caplog.messages == []
    flip(checkpoint.folder_of(tmp_path, 30) / "stage-1.safetensors")
    for stage in (0, 1):
        (checkpoint.folder_of(tmp_path, 20) / f"stage-{stage}.json").write_text("{")
    assert checkpoint.newest_whole(tmp_path) == 10
    first, second = caplog.messages
    assert re.fullmatch(
        r"stage 1, step 30: .*/step-00000030/stage-1\.safetensors is damaged: its content does not match its digest; "
        "going back to the checkpoint of step 10",
        first,
    )
    assert re.search(r"/step-00000020/stage-0\.json is damaged: .*; going back to the checkpoint of step 10$", second)
    flip(checkpoint.folder_of(tmp_path, 10) / "stage-0.json")
    with pytest.raises(DamagedCheckpoint, match=r"step-00000030/stage-1\.safetensors is damaged"):
        checkpoint.newest_whole(tmp_path)


def test_a_resumed_run_drops_later_checkpoints_and_sets_damaged_ones_aside(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 40, 1)
    flip(checkpoint.folder_of(tmp_path, 30) / "stage-0.safetensors")
    checkpoint.drop_after(tmp_path, 10)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["damaged-step-00000030", "step-00000010"]
    assert checkpoint.complete_steps(tmp_path) == [10]


def flip(path: Path) -> None:
    """Flip the last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
