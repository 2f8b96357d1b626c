"""Checkpoints: what is saved is what is loaded; what is not whole is not offered."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.errors import CheckpointError, DamagedCheckpoint
from workers.storage import checkpoint, stage_files
from workers.storage.sealed import read_sealed, write_sealed

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
def test_every_bit_that_flips_is_noticed(kind: str, tmp_path: Path) -> None:
    """Each of the first 700 bits (opening, digest), then every 13th: all eight places in a byte come up."""
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


def test_files_of_another_place_are_noticed(tmp_path: Path) -> None:
    """Whole files, which only lie where they do not belong."""
    for step in (220, 240):
        save(tmp_path, step, 0, 1)
    earlier, later = (checkpoint.folder_of(tmp_path, step) for step in (220, 240))
    for name in ("stage-1.json", "stage-1.safetensors"):
        shutil.copy(earlier / name, later / name)
    with pytest.raises(DamagedCheckpoint, match=r"step-00000240/stage-1\.json is damaged: it is of step 220, and lies"):
        checkpoint.verify(tmp_path, 240)
    for end in ("json", "safetensors"):
        shutil.copy(earlier / f"stage-0.{end}", earlier / f"stage-1.{end}")
    with pytest.raises(DamagedCheckpoint, match=r"step-00000220/stage-1\.json is damaged: it is of stage 0, and lies"):
        checkpoint.verify(tmp_path, 220)
    save(tmp_path, 300, 0, 1)
    checkpoint.save(tmp_path, 1, 3, 300, TREE)
    with pytest.raises(DamagedCheckpoint, match=r"step-00000300/stage-1\.json is of a run of 3 stages, those before"):
        checkpoint.verify(tmp_path, 300)
    with pytest.raises(CheckpointError, match=r"step-00000300/stage-0\.json is of a run of 2 stages, not 4"):
        checkpoint.load(tmp_path, 300, 0, 4)


def test_the_newest_one_that_is_whole_is_found_and_damage_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 40, 1)  # under way when the run ended
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


def test_a_checkpoint_of_the_format_before_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 20, 0, of=1)
    path = checkpoint.folder_of(tmp_path, 20) / "stage-0.json"
    plain = json.loads(path.read_text())
    old = {"format": 1, "step": 20, "stage": 0, "stages": 1, "state": plain["state"]}
    path.write_text(json.dumps(old))
    assert checkpoint.newest_whole(tmp_path) == 20
    assert [message.partition("step-00000020 ")[2] for message in caplog.messages] == [
        "is from before there were digests (format 1): damage would not be noticed"
    ]
    assert same(TREE, checkpoint.load(tmp_path, 20, 0))
    path.write_text(json.dumps({**old, "step": 10}))
    with pytest.raises(DamagedCheckpoint, match="it is of step 10"):
        checkpoint.load(tmp_path, 20, 0)


def test_a_checkpoint_of_a_later_version_is_no_damage(tmp_path: Path) -> None:
    save(tmp_path, 10, 0, of=1)
    save(tmp_path, 20, 0, of=1)
    path = checkpoint.folder_of(tmp_path, 20) / "stage-0.json"
    write_sealed(path, read_sealed(path) | {"format": 3})
    with pytest.raises(CheckpointError, match="has format 3, and this version reads 2: use a later one") as error:
        checkpoint.newest_whole(tmp_path)
    assert not isinstance(error.value, DamagedCheckpoint)


def test_steps_are_numbers_however_many_digits_they_have(tmp_path: Path) -> None:
    steps = [99_999_980, 100_000_000, 200_000_000, 1_000_000_000]
    for step in steps:
        save(tmp_path, step, 0, of=1)
    assert checkpoint.complete_steps(tmp_path) == steps
    assert checkpoint.newest_whole(tmp_path) == 1_000_000_000
    checkpoint.prune(tmp_path, 2)
    assert checkpoint.complete_steps(tmp_path) == steps[2:]


def test_what_is_saved_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: content, name, the folder's list of names; at last the list that the folder itself is in."""
    seen: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        seen.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def named(source: Path, target: Path) -> None:
        seen.append(f"name {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named)
    save(tmp_path, 20, 0, of=1)
    assert seen == [
        "sync stage-0.tmp", "name stage-0.safetensors", "sync step-00000020",
        "sync stage-0.json.tmp", "name stage-0.json", "sync step-00000020", "sync checkpoints",
    ]  # fmt: skip


def test_a_run_that_goes_on_drops_what_came_later_and_sets_aside_what_it_cannot_read(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        save(tmp_path, step, 0, 1)
    save(tmp_path, 40, 1)
    flip(checkpoint.folder_of(tmp_path, 30) / "stage-0.safetensors")
    checkpoint.drop_after(tmp_path, 10)
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["damaged-step-00000030", "step-00000010"]
    assert checkpoint.complete_steps(tmp_path) == [10]


def flip(path: Path) -> None:
    """The last bit of a file."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


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
    monkeypatch.setattr(stage_files, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 20, 0, of=1)
    assert checkpoint.complete_steps(tmp_path) == [10]
    assert same(TREE, checkpoint.load(tmp_path, 10, 0))
