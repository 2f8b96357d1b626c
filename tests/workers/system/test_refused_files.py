"""Files and folders that a run cannot write: one line with a remedy, and the run's last checkpoint."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dni.errors import SystemRefused
from tests.support.commands import LOCAL, SMALL, run, settings
from workers.cli.evaluate import main as evaluate
from workers.cli.train import exit_codes
from workers.launch.cluster_environment import RankInfo
from workers.launch.launcher import launch
from workers.storage import checkpoint


@contextmanager
def files_of_at_most(nbytes: int) -> Iterator[None]:
    """Limit the size of files, in this process and in its children."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


TOO_LARGE = r"File too large: raise the limit of a file's size \(ulimit -f\)"


class NoTensorBoard:
    """Replaces TensorBoard, whose thread would end with its own error."""

    def __init__(self, run_dir: Path) -> None:
        pass

    def show(self, record: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_unwritable_metrics_end_the_run_and_its_last_checkpoint_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints of this size still fit under the limit."""
    monkeypatch.setattr("workers.tracking.monitor.TensorBoardWriter", NoTensorBoard)
    config = settings(
        *SMALL, *LOCAL, "steps=100000", "log_every=1", "checkpoint.every=5", "model.units=2", "depth=local"
    )
    with files_of_at_most(20_000), pytest.raises(SystemRefused) as refused:
        launch(config, tmp_path / "run")
    last = checkpoint.complete_steps(tmp_path / "run")[-1]
    assert re.fullmatch(
        rf"stage \d, step \d+: {tmp_path}/run/metrics\.jsonl: {TOO_LARGE}; last complete checkpoint: "
        rf"{checkpoint.folder_of(tmp_path / 'run', last)}; resume with: dni-train resume={tmp_path}/run",
        str(refused.value),
    )


@pytest.mark.long
def test_an_unwritable_checkpoint_ends_a_run_in_processes(tmp_path: Path) -> None:
    with files_of_at_most(5_000), pytest.raises(SystemRefused) as refused:
        launch(settings(*SMALL, "stages=1", "launch=processes", "steps=10", "model.units=64"), tmp_path / "run")
    assert re.fullmatch(
        rf"stage 0, after step 10: {tmp_path}/run/checkpoints/step-00000010/stage-0\.safetensors: {TOO_LARGE}; no "
        r"complete checkpoint had been written \(checkpoint\.every sets how often\)",
        str(refused.value),
    )
    assert [
        path.name for path in checkpoint.folder_of(tmp_path / "run", 10).iterdir()
    ] == []  # no incomplete file is left


def test_an_unwritable_checkpoint_ends_a_run_with_external_launch(tmp_path: Path) -> None:
    rank_info = RankInfo(0, 1, "WORLD_SIZE", True, local=1)
    config = settings(*SMALL, "stages=1", "launch=external", "steps=4", "model.units=64")
    with files_of_at_most(5_000), pytest.raises(SystemRefused) as refused:
        launch(config, tmp_path / "run", rank_info)
    assert re.match(rf"stage 0: {tmp_path}/run/checkpoints/.*{TOO_LARGE}; no complete checkpoint", str(refused.value))


@pytest.mark.long
def test_the_command_refuses_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    done = run(tmp_path, "hydra.run.dir=/proc/x/y")
    assert (done.code, done.out) == (2, [])
    assert done.err == ["dni-train: /proc/x: No such file or directory: name another folder (hydra.run.dir=FOLDER)"]


@pytest.mark.parametrize("folder", ["/proc/x/y", "/dev/null/run"])
def test_a_folder_that_cannot_be_made_is_refused_in_one_line(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited, exit_codes():
        launch(settings(*SMALL, *LOCAL, "steps=2"), Path(folder))
    assert exited.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dni-train: /")
    assert line.endswith("name another folder (hydra.run.dir=FOLDER)")


def test_an_unwritable_evaluation_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch(settings(*SMALL, *LOCAL, "steps=2", "stages=1"), tmp_path / "run")
    (tmp_path / "run" / "evaluation-valid.json").symlink_to("/dev/full")
    assert evaluate([str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"dni-evaluate: {tmp_path}/run/evaluation-valid.json: No space left on device: free some space on that disk"
    ]
