"""Checkpoints: what is saved is what is loaded; what is not whole is not offered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import CheckpointError
from workers import checkpoint

TREE: dict[str, Any] = {
    "module": {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.tensor([1.5, -2.0]).bfloat16()},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0), "seen": torch.tensor([True, False])}, 12: {}}, "lr": 2e-3},
    "state": [torch.zeros(0, 3), torch.tensor(5), torch.arange(6).view(2, 3).t()],
    "random": {"cpu": torch.arange(4, dtype=torch.uint8)},
    "pairs": [[3, torch.tensor([0.25])], [4, None]],
    "updates": 41, "ready": False, "name": "a/b", "nothing": None, "empty": [],
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Equal in structure, in types, and bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def save(run_dir: Path, step: int, *stages: int, of: int = 2) -> None:
    for stage in stages:
        checkpoint.save(run_dir, stage, of, step, TREE)


def test_a_tree_of_tensors_and_values_comes_back_as_it_was(tmp_path: Path) -> None:
    save(tmp_path, 1000, 1)
    names = {p.name for p in (tmp_path / "checkpoints" / "step-00001000").iterdir()}
    assert names == {"stage-1.json", "stage-1.safetensors"}
    assert same(TREE, checkpoint.load(tmp_path, 1000, 1))


def test_tensors_that_share_memory_are_saved_each_for_itself(tmp_path: Path) -> None:
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
def test_a_checkpoint_that_lacks_a_file_is_not_offered(name: str, tmp_path: Path) -> None:
    save(tmp_path, 20, 0, 1)
    (checkpoint.folder_of(tmp_path, 20) / name).unlink()
    assert checkpoint.complete_steps(tmp_path) == []


def test_what_is_no_checkpoint_is_not_offered(tmp_path: Path) -> None:
    save(tmp_path, 20, 0, of=1)
    save(tmp_path, 30, 0, of=1)
    (checkpoint.folder_of(tmp_path, 30) / "stage-0.json").write_text("{")
    (tmp_path / "checkpoints" / "step-copy").mkdir()
    assert checkpoint.complete_steps(tmp_path) == [20]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_json(path: Path) -> None:
    path.write_text("[1]")


def other_format(path: Path) -> None:
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))


def other_tensor(path: Path) -> None:
    path.write_text(path.read_text().replace("layer.bias", "layer.boas"))


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("json", cut), ("json", empty), ("json", other_json), ("json", other_format), ("json", other_tensor),
        ("json", os.remove), ("safetensors", cut), ("safetensors", empty), ("safetensors", os.remove),
    ],
)  # fmt: skip
def test_damage_is_an_error_that_names_stage_and_step(kind: str, damage: Any, tmp_path: Path) -> None:
    save(tmp_path, 20, 1)
    damage(checkpoint.folder_of(tmp_path, 20) / f"stage-1.{kind}")
    with pytest.raises(CheckpointError, match=r"^stage 1, step 20: .*step-00000020/stage-1\.json"):
        checkpoint.load(tmp_path, 20, 1)


def test_old_checkpoints_go_and_the_newest_stay(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 110, 0)  # under way
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.complete_steps(tmp_path) == [20, 100]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000020", "step-00000100", "step-00000110",
    ]  # fmt: skip


def test_the_best_checkpoint_is_spared_however_old(tmp_path: Path) -> None:
    for step in (5, 10, 20, 30):
        save(tmp_path, step, 0, 1)
    checkpoint.prune(tmp_path, 1, spare=10)
    assert checkpoint.complete_steps(tmp_path) == [10, 30]


def test_a_checkpoint_is_copied_whole_and_once(tmp_path: Path) -> None:
    save(tmp_path / "a", 5, 0, 1)
    (tmp_path / "b" / "checkpoints" / "step-00000007").mkdir(parents=True)
    for _ in range(2):
        checkpoint.copy(tmp_path / "a", tmp_path / "b", 5)
    assert checkpoint.complete_steps(tmp_path / "b") == [5]
    assert same(TREE, checkpoint.load(tmp_path / "b", 5, 1))


def test_the_json_comes_last_and_every_file_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment but after the last step the checkpoint is not complete, and no file is seen half-written."""
    moves: list[tuple[str, bool]] = []
    replace = os.replace

    def watched(source: Path, target: Path) -> None:
        if target.suffix == ".json":
            json.loads(source.read_text())
        moves.append((target.name, bool(checkpoint.complete_steps(tmp_path))))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    save(tmp_path, 20, 0, of=1)
    assert moves == [("stage-0.safetensors", False), ("stage-0.json", False)]
    assert checkpoint.complete_steps(tmp_path) == [20]


def test_a_failure_while_saving_leaves_the_older_files_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any) -> None:
        raise OSError("no space left on device")

    save(tmp_path, 10, 0, of=1)
    monkeypatch.setattr(checkpoint, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 20, 0, of=1)
    assert checkpoint.complete_steps(tmp_path) == [10]
    assert same(TREE, checkpoint.load(tmp_path, 10, 0))
