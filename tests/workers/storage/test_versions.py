"""Versions: the oldest allowed ones are tested, older ones are refused, changed ones are named."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import tiny
from workers.launch.launcher import launch
from workers.storage import versions
from workers.storage.versions import changed_versions, keep_versions, unmet_requirements

ROOT = Path(__file__).resolve().parents[3]


def test_the_oldest_allowed_versions_are_tested() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    needed = project.partition("\ndependencies = [")[2].partition("\n]")[0]
    bounds = dict(re.findall(r'^ +"([\w-]+)>=([\d.]+)', needed, re.MULTILINE))
    assert len(bounds) == len(re.findall(r'^ +"', needed, re.MULTILINE)) > 10  # each has a bound
    pinned = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE))
    assert bounds == {name: pinned[name] for name in bounds}


def test_the_oldest_protobuf_is_that_of_the_generated_code() -> None:
    """Its import fails with an older one."""
    generated = (ROOT / "workers" / "stage_pb2.py").read_text()
    (made_with,) = re.findall(r"Protobuf Python Version: ([\d.]+)", generated)
    assert f'"protobuf>={made_with}"' in (ROOT / "pyproject.toml").read_text()


def pretend(folder: Path, name: str, version: str, *needs: str) -> None:
    """Make a folder claim that a package is installed."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("command", ["train", "report", "evaluate", "simulate"])
def test_old_versions_are_refused_in_one_line_before_any_import(command: str, tmp_path: Path) -> None:
    """Neither torch nor any other package, which might fail to import."""
    pretend(tmp_path, "dni", "0.1.0", "torch>=2.10.0", "protobuf>=7.35.1", "numpy>=1.0", 'later>=3; extra == "dev"')
    pretend(tmp_path, "torch", "2.6.0+cpu")
    pretend(tmp_path, "protobuf", "6.33.0")
    (tmp_path / "torch.py").write_text("raise RuntimeError('too old to be imported')")
    program = f"from workers.cli.commands import {command}; {command}()"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dni-{command}: dni needs torch>=2.10.0, and torch 2.6.0+cpu is installed; protobuf>=7.35.1, and protobuf "
        "6.33.0 is installed: pip install 'torch>=2.10.0' 'protobuf>=7.35.1'\n"
    )


def test_missing_packages_are_named_and_pre_releases_count_as_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, "dni", "0.1.0", "torch>=2.10.0", "nosuchpackage>=3")
    pretend(tmp_path, "torch", "2.10.0a0+git1234")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert unmet_requirements() == ["nosuchpackage>=3, and it is not installed"]


def test_installed_versions_are_accepted() -> None:
    assert unmet_requirements() == []


def test_a_run_resumed_with_other_versions_warns_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = {"stages": 1, "checkpoint": {"every": 1}, "evaluate": {"every": None}}
    now = versions.versions()
    launch(tiny(steps=1, **run), tmp_path)
    assert json.loads((tmp_path / "versions.json").read_text()) == now
    again = tiny(steps=2, resume=str(tmp_path), **run)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(versions, "versions", lambda: {**now, "torch": "2.99.1", "numpy": "3.0"})
        launch(again, tmp_path)
    messages = [record.getMessage() for record in caplog.records if record.name == "workers.resume.resume"]
    assert messages == [
        f"resume={tmp_path} continues with other versions: torch was {now['torch']}, now 2.99.1, "
        f"numpy was {now['numpy']}, now 3.0; last digits may differ"
    ]


def test_versions_of_a_run_that_kept_fewer_or_none(tmp_path: Path) -> None:
    """Earlier runs have some in their summary only; a folder's file may hold anything."""
    assert changed_versions(tmp_path) == []
    (tmp_path / "summary.json").write_text(json.dumps({"versions": {"torch": "2.6.0", "grpc": None, "other": "1"}}))
    (line,) = changed_versions(tmp_path)
    assert line.startswith("torch was 2.6.0, now ")
    keep_versions(tmp_path)
    assert changed_versions(tmp_path) == []
    (tmp_path / "versions.json").write_bytes(b"\xff[")
    (tmp_path / "summary.json").write_text("[1]")
    assert changed_versions(tmp_path) == []
