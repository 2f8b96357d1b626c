"""Checkpoints: states are restored as saved, incomplete ones are skipped, old ones are pruned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dni.errors import CheckpointError, DamagedCheckpoint
from tests.support.workers.checkpoints import TREE, same, save
from workers.storage import checkpoint
from workers.storage.sealed import read_sealed, write_sealed


def test_a_tree_of_tensors_and_values_is_restored(tmp_path: Path) -> None:
    save(tmp_path, 1000, 1)
    names = {p.name for p in (tmp_path / "checkpoints" / "step-00001000").iterdir()}
    assert names == {"stage-1.json", "stage-1.safetensors"}
    assert same(TREE, checkpoint.load(tmp_path, 1000, 1))


def test_tensors_that_share_memory_are_saved_separately(tmp_path: Path) -> None:
    whole = torch.arange(4.0)
    checkpoint.save(tmp_path, 0, 1, 1, {"a": whole, "b": whole, "part": whole[1:3]})
    loaded = checkpoint.load(tmp_path, 1, 0)
    loaded["a"][0] = 9.0
    assert loaded["b"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert loaded["part"].tolist() == [1.0, 2.0]


def test_a_checkpoint_is_complete_with_the_last_stage(tmp_path: Path) -> None:
    assert checkpoint.complete_steps(tmp_path) == []
    save(tmp_path, 20, 1)
    assert checkpoint.complete_steps(tmp_path) == []
    save(tmp_path, 20, 0)
    save(tmp_path, 100, 0, 1)
    save(tmp_path, 40, 0)
    assert checkpoint.complete_steps(tmp_path) == [20, 100]


@pytest.mark.parametrize("name", ["stage-0.json", "stage-1.json", "stage-0.safetensors", "stage-1.safetensors"])
def test_a_checkpoint_without_a_file_is_incomplete(name: str, tmp_path: Path) -> None:
    save(tmp_path, 20, 0, 1)
    (checkpoint.folder_of(tmp_path, 20) / name).unlink()
    assert checkpoint.complete_steps(tmp_path) == []


def test_other_folders_are_no_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 20, 0, of=1)
    save(tmp_path, 30, 0, of=1)
    (checkpoint.folder_of(tmp_path, 30) / "stage-0.json").write_text("{")
    (tmp_path / "checkpoints" / "step-copy").mkdir()
    assert checkpoint.complete_steps(tmp_path) == [20]


def test_a_checkpoint_of_the_previous_format_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 20, 0, of=1)
    path = checkpoint.folder_of(tmp_path, 20) / "stage-0.json"
    plain = json.loads(path.read_text())
    old = {"format": 1, "step": 20, "stage": 0, "stages": 1, "state": plain["state"]}
    path.write_text(json.dumps(old))
    assert checkpoint.newest_whole(tmp_path) == 20
    assert [message.partition("step-00000020 ")[2] for message in caplog.messages] == [
        "has no digests (format 1): damage cannot be detected"
    ]
    assert same(TREE, checkpoint.load(tmp_path, 20, 0))
    path.write_text(json.dumps({**old, "step": 10}))
    with pytest.raises(DamagedCheckpoint, match="it belongs to step 10"):
        checkpoint.load(tmp_path, 20, 0)


def test_a_checkpoint_of_a_later_version_is_not_damaged(tmp_path: Path) -> None:
    save(tmp_path, 10, 0, of=1)
    save(tmp_path, 20, 0, of=1)
    path = checkpoint.folder_of(tmp_path, 20) / "stage-0.json"
    write_sealed(path, read_sealed(path) | {"format": 3})
    with pytest.raises(CheckpointError, match="has format 3, but this version reads 2: use a later version") as error:
        checkpoint.newest_whole(tmp_path)
    assert not isinstance(error.value, DamagedCheckpoint)


def test_steps_sort_as_numbers(tmp_path: Path) -> None:
    steps = [99_999_980, 100_000_000, 200_000_000, 1_000_000_000]
    for step in steps:
        save(tmp_path, step, 0, of=1)
    assert checkpoint.complete_steps(tmp_path) == steps
    assert checkpoint.newest_whole(tmp_path) == 1_000_000_000
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.complete_steps(tmp_path) == steps[2:]


def test_prune_keeps_the_newest_checkpoints(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 110, 0)  # incomplete
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.complete_steps(tmp_path) == [20, 100]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000020", "step-00000100", "step-00000110",
    ]  # fmt: skip


def test_prune_spares_the_best_checkpoint(tmp_path: Path) -> None:
    for step in (5, 10, 20, 30):
        save(tmp_path, step, 0, 1)
    checkpoint.prune(tmp_path, 1, spare=10)
    assert checkpoint.complete_steps(tmp_path) == [10, 30]


def test_a_checkpoint_is_copied_atomically_and_once(tmp_path: Path) -> None:
    save(tmp_path / "a", 5, 0, 1)
    (tmp_path / "b" / "checkpoints" / "step-00000007").mkdir(parents=True)
    for _ in range(2):
        checkpoint.copy(tmp_path / "a", tmp_path / "b", 5)
    assert checkpoint.complete_steps(tmp_path / "b") == [5]
    assert same(TREE, checkpoint.load(tmp_path / "b", 5, 1))
