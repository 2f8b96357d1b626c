"""workers/build/provenance.py: the size of a model, and the commit of the code."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.runs import tiny
from workers.build.data import resolve
from workers.build.provenance import commit_of, count_parameters
from workers.launch.launcher import launch


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git checkout with a package `dni`, and an ignored environment with another `dni`."""
    for folder in ("dni", ".venv/dni"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    known = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(["git", "-C", folder, *known, *words], check=True, capture_output=True, text=True).stdout


def test_the_commit_is_that_of_the_packages_own_checkout(checkout: Path) -> None:
    head = git(checkout, "rev-parse", "HEAD").strip()
    package = checkout / "dni" / "__init__.py"
    assert commit_of(package) == head
    assert commit_of(checkout / ".venv" / "dni" / "__init__.py") is None  # a wheel inside of another checkout
    assert commit_of(checkout / "missing" / "dni" / "__init__.py") is None
    package.write_text("changed = True\n")
    commit_of.cache_clear()
    assert commit_of(package) == f"{head}-dirty"


def test_without_git_there_is_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    commit_of.cache_clear()
    assert commit_of(checkout / "dni" / "__init__.py") is None
    commit_of.cache_clear()


def test_a_summary_has_the_size_of_the_model_and_the_commit(tmp_path: Path) -> None:
    config = tiny(steps=1, model={"units": 8, "layers": 1})
    symbols = resolve(config)[0].model.symbols or 0
    lstm = 4 * 8 * (8 + 8) + 2 * 4 * 8  # weights of input and state, and torch's two biases
    size = symbols * 8 + lstm + (8 + 1) * symbols
    assert count_parameters(resolve(config)[0]) == size
    summary = launch(config, tmp_path / "run").summary
    assert summary["parameters"] == size
    assert summary["commit"] == commit_of()
