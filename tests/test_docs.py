"""Every code block of the pages runs as it stands, or has a comment that says why it is not run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.refusals import refusal_of
from workers.cli.sweep.check import combinations
from workers.config.compose import compose_settings
from workers.config.validation.check import check

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A code block of a page; `why` is the reason for not running it."""

    page: str
    kind: str
    text: str
    why: str | None


BLOCKS = [
    Block(str(page.relative_to(ROOT)), found["kind"], found["text"], found["why"])
    for page in PAGES
    for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
    if found["kind"] != "text"  # a picture
]


def test_every_block_is_run_or_has_a_reason() -> None:
    kinds = {block.kind for block in BLOCKS if not block.why}
    assert kinds == {"", "python"}  # blocks of another kind need a check of their own
    assert all(len(block.why) > 5 for block in BLOCKS if block.why)
    fences = sum(page.read_text(encoding="utf-8").count("\n```") for page in PAGES)
    pictures = sum(page.read_text(encoding="utf-8").count("\n```text\n") for page in PAGES)
    assert fences == 2 * (len(BLOCKS) + pictures)


def test_excerpts_equal_their_files() -> None:
    shown = [(found[1], block.text) for block in BLOCKS if (found := re.match(r"part of (\S+)$", block.why or ""))]
    assert len(shown) >= 8
    for path, text in shown:
        assert text in (ROOT / path).read_text(encoding="utf-8"), f"{path} has changed"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.kind == "python" and not block.why}))
def test_python_runs_as_it_stands(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the blocks of a page one after another, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS:
        if (block.page, block.kind, block.why) == (page, "python", None):
            exec(block.text, names)
    assert len(names) > 2, "they define something"


@pytest.mark.timeout(180)
@pytest.mark.parametrize("block", [b for b in BLOCKS if not b.kind and not b.why], ids=lambda b: b.text.split("\n")[0])
def test_commands_run_as_they_stand(block: Block, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        ["bash", "-euc", 'PATH=$PWD/.venv/bin:$PATH\n' + block.text],
        cwd=tmp_path, capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def commands() -> list[str]:
    """Return the dni-train commands in blocks that are not run, except those that test_launching checks."""
    pages = ("README.md", "docs/running.md")
    lines = [line for block in BLOCKS if block.why and block.page in pages for line in block.text.splitlines()]
    return [line.partition("dni-train ")[2] for line in lines if "dni-train " in line]


@pytest.mark.parametrize("words", commands())
def test_commands_without_a_run_are_accepted(words: str) -> None:
    for overrides in combinations(shlex.split(words, comments=True)):
        assert refusal_of(check, compose_settings(overrides)) is None


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_examples_that_are_typed_pass_strict_mypy(tmp_path: Path) -> None:
    """Use the cache of `make check`, which runs first in continuous integration."""
    files: list[str] = []
    for page in ("README.md", "docs/library.md", "docs/python.md"):
        text = "".join(b.text for b in BLOCKS if (b.page, b.kind, b.why) == (page, "python", None))
        file = tmp_path / f"{Path(page).stem.lower()}_example.py"
        file.write_text(text)
        files.append(str(file))
    words = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *files]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout
