"""`dni-new`: what it writes can be run at once, and is refused in one line where it cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from workers.study.new import main, write

ROOT = Path(__file__).resolve().parents[3]


def test_a_study_has_a_model_a_method_settings_and_a_test(tmp_path: Path) -> None:
    text = tmp_path / 'a "text".txt'
    text.write_text("abc")
    write(tmp_path / "mine", text)
    files = {str(path.relative_to(tmp_path / "mine")) for path in (tmp_path / "mine").rglob("*") if path.is_file()}
    assert files == {
        "README.md", "network.py", "method.py", "test_study.py", "conf/experiment/mine.yaml", "conf/model/network.yaml",
        "conf/depth/sign.yaml",
    }  # fmt: skip
    experiment = yaml.safe_load((tmp_path / "mine" / "conf" / "experiment" / "mine.yaml").read_text())
    assert (experiment["experiment"], experiment["data"]["path"]) == ("mine", str(text))
    assert not any("$" in (tmp_path / "mine" / name).read_text() for name in files)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("my-study",), "my-study names the experiment: begin with a letter"),
        (("full",), "full already exists and is not an empty folder: name another one"),
        (("mine", "--text", "nosuch.txt"), "--text nosuch.txt does not exist: name a UTF-8 file"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_line(
    words: tuple[str, ...],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dni-new", *words])
    assert main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dni-new: {says}")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "notes.txt"]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_first_comparison_runs_as_its_page_says(tmp_path: Path) -> None:
    """The commands of docs/first_comparison.md, with fewer steps and seeds, then the study's own test and mypy."""
    page = (ROOT / "docs" / "first_comparison.md").read_text(encoding="utf-8")
    commands = page.split("```\n")[1].split("\n```")[0]
    (tmp_path / "my_text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 2000)
    shorter = commands.replace("seed=0,1,2", "seed=0,1 steps=10 evaluate.windows=2")
    assert shorter != commands
    typed = "python -m mypy --strict --follow-imports=silent network.py method.py test_study.py"
    checks = f"python -m pytest -q .\nMYPYPATH={ROOT} {typed}"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", f"{shorter}\n{checks}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = (tmp_path / "my_study" / "runs" / "report" / "report.html").read_text(encoding="utf-8")
    assert all(method in report for method in ("SignFeedback", "backprop", "local", "synthetic"))
