"""Every example has a page, and its command runs as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.examples import EXAMPLES, Import
from tests.support.pictures import pictures

FOLDERS = sorted(page.parent.name for page in EXAMPLES.glob("*/README.md"))


def test_every_example_has_a_page() -> None:
    assert sorted(path.parent.name for path in EXAMPLES.glob("*/*.py")) == FOLDERS


@pytest.mark.long
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_command_of_a_page_runs_as_written(folder: str, import_example: Import, tmp_path: Path) -> None:
    """It takes three steps, and the pictures are made up."""
    (block,) = re.findall(r"```sh\n(.*?)```", (EXAMPLES / folder / "README.md").read_text(), re.S)
    shorter = ["steps=3", "evaluate.windows=1", f"hydra.run.dir={tmp_path / 'run'}"]
    shorter += ["optimizer.schedule.warmup_steps=1"] if "warmup_steps" in block else []
    if "data=series" in block:
        import_example("series", "forecast").write(tmp_path / "series.csv")
        shorter += [f"data.path={tmp_path / 'series.csv'}"]
    elif "data.path" in block:
        shorter += [f"data.path={pictures(tmp_path / 'data')}"]
    lines = [line for line in block.splitlines() if not line.startswith("pip install ")]
    command = " ".join([*lines[1:], *shorter]).replace("\\", "")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert lines[0] == f"cd examples/{folder}"
    subprocess.run(command, shell=True, check=True, cwd=EXAMPLES / folder, env=environment)
    assert (tmp_path / "run" / "summary.json").is_file()
