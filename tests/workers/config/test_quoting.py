"""Commands that messages suggest can be typed: they pass a shell and Hydra's grammar."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.support.commands import LOCAL, SMALL, settings, summary_of
from workers.cli import train as command
from workers.cli.arguments import resumed_folder
from workers.config.quoting import hydra_value, resume_command
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.storage.checkpoint import continue_with

pytestmark = pytest.mark.usefixtures("own_logging")

#: All characters with a meaning to a shell or to Hydra, and letters beyond ASCII.
ODD = "a=b, 'c' (d) {e} [f] \"g\" $h ${i} `j` k\\ ~!#&;|*? Größe 試"


@examples(max_examples=150, deadline=None)
@given(st.text(alphabet="ab.=,'(){}[]\"\\$ äß試:#~&!`1", min_size=1, max_size=12))
def test_any_folder_name_passes_shell_and_grammar(name: str) -> None:
    words = shlex.split(resume_command(Path("/runs") / name))
    assert words[0] == "dni-train"
    assert resumed_folder(words[1:]) == Path("/runs") / name


def test_a_plain_path_is_not_quoted() -> None:
    assert resume_command(Path("/runs/2026-01-31/12-00")) == "dni-train resume=/runs/2026-01-31/12-00"
    assert resume_command(Path("/runs/a=b")) == "dni-train \"resume='/runs/a=b'\""


@pytest.mark.parametrize("name", ["a=b", ODD])
@pytest.mark.long
def test_the_resume_hint_runs_in_a_shell(name: str, tmp_path: Path) -> None:
    """The hint is that of a run that lost a stage after its checkpoint."""
    folder = tmp_path / name
    launch(settings(*SMALL, *LOCAL, "steps=5", "checkpoint.every=5", "evaluate.windows=1"), folder)
    assert checkpoint.complete_steps(folder) == [5]
    hint = continue_with(folder).split("resume with: ")[1]
    shell = f'dni-train() {{ {shlex.quote(sys.executable)} -m workers "$@"; }}; {hint} steps=10 hydra.run.dir=on'
    done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert summary_of(tmp_path / "on")["steps"] == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.path", "=", "x"],
            r"'data\.path' .*; a setting is written as key=value, without spaces around",
        ),
        (
            ["data.path = x"],
            r"data\.path = x.*; if the value is text with special characters, quote it: \"data\.path='x'\"",
        ),
        (["resume=a=b"], r"'resume=a=b' mismatched .*, quote it: \"resume='a=b'\""),
        (["data.path=a=b"], r"'data\.path=a=b' mismatched .*, quote it: \"data\.path='a=b'\""),
        (["data.path=it's"], r"quote it: \"data\.path='it\\'s'\"|quote it: .*it"),
        (["resume=a,b"], r"resume=a,b: resume takes one run; quote a folder with a comma in its name"),
    ],
)
def test_a_word_that_hydra_cannot_parse_is_refused_with_the_quoted_form(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dni-train", *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line
    assert "http" not in line


def test_quoted_values_arrive_unchanged() -> None:
    for text in ("a=b", "it's", "a (b), c", "ä"):
        assert settings(f"data.path={hydra_value(text)}").data.path == text
