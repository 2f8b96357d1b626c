"""The wheel is complete: installed elsewhere, the command runs from any folder with files of the wheel alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dni
from tests.support.commands import Command

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "dni", "workers", "conf")
WHERE = """
import dni, workers.conf
from pathlib import Path
print(dni.__file__)
from workers.cli.explain import settings
assert settings()["optimizer.clip"].unit == "norm"  # so that a user of the wheel needs no source
print(*sorted(str(p) for folder in workers.conf.__path__ for p in Path(folder).rglob("*.yaml")), sep="\\n")
"""


def say(*words: str | Path, cwd: Path, path: str = "") -> list[str]:
    """Run this Python with arguments, and return the lines it printed."""
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with only the installed wheel of these sources."""
    base = tmp_path_factory.mktemp("packaging")
    source, target = base / "source", base / "target"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    say("-m", "build", "--wheel", "--no-isolation", "--outdir", base, source, cwd=base)
    (wheel,) = base.glob("*.whl")
    say("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=base)
    return target


@pytest.mark.timeout(120)
def test_wheel_has_all_packages_and_config_files(installed: Path, tmp_path: Path) -> None:
    package, *configs = say("-c", WHERE, cwd=tmp_path, path=str(installed))
    assert package == str(installed / "dni" / "__init__.py")
    expected = {p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")}
    assert {Path(p).relative_to(installed / "workers" / "conf") for p in configs} == expected
    for part in ("dni/py.typed", "workers/py.typed", "workers/stage_pb2.pyi", "workers/comm/transports/grpc/link.py"):
        assert (installed / part).is_file()
    commands = {"train", "report", "status", "evaluate", "export", "sample", "plan", "simulate", "new", "check", "grow"}
    assert {p.name for p in (installed / "bin").glob("dni-*")} == {f"dni-{name}" for name in commands}
    assert not (installed / "tests").exists()
    (metadata,) = installed.glob("dni-*.dist-info/METADATA")
    head, _, description = metadata.read_text(encoding="utf-8").partition("\n\n")
    assert f"Version: {dni.__version__}" in head
    assert "Description-Content-Type: text/markdown" in head
    assert "Project-URL: Paper, https://arxiv.org/abs/1608.05343" in head
    assert description.strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_installed_command_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    program = (str(installed / "bin" / "dni-train"),)
    environment = {"PYTHONPATH": str(installed)}
    with Command(tmp_path, ("experiment=smoke", "steps=20"), program, environment) as command:
        done = command.finish()
        folder = command.run_dir()
    assert (done.code, done.err) == (0, [])
    assert json.loads((folder / "summary.json").read_text())["steps"] == 20
