"""Saving a checkpoint: the order of writes, and the state after a failure."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.workers.checkpoints import TREE, same, save
from workers.storage import checkpoint, stage_files


def test_content_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: content, name, the folder's list of names; last the list that contains the folder."""
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


def test_the_json_is_written_last_and_every_file_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint is incomplete until the last step, and no file is visible half-written."""
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


def test_a_failed_save_leaves_the_older_files_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise OSError("no space left on device")

    save(tmp_path, 10, 0, of=1)
    monkeypatch.setattr(stage_files, "save_file", fails)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, 20, 0, of=1)
    assert checkpoint.complete_steps(tmp_path) == [10]
    assert same(TREE, checkpoint.load(tmp_path, 10, 0))
