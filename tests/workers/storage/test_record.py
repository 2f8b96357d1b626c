"""The record of a run: written only by accepted commands, and read as untrusted data."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from dni.errors import ConfigError, ResumeError
from dni.lr_schedule import Cosine
from tests.support.commands import LOCAL, SMALL, settings
from workers.cli import train as command
from workers.launch.cluster_environment import RankInfo
from workers.launch.launcher import launch, launch_later_stage
from workers.reporting.tasks import settings_of
from workers.resume.resume import settle_resume
from workers.storage.lock import LOCK
from workers.storage.record import CONFIG, read_plain, read_record, write_record
from workers.tracking.run import read_run

pytestmark = pytest.mark.usefixtures("own_logging")

STARTED = (*SMALL, *LOCAL, "steps=10", "checkpoint.every=5", "optimizer.learning_rate=0.004")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    launch(settings(*STARTED), folder)
    return folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A writable copy of the finished run."""
    for path in (finished / CONFIG, finished / "metrics.jsonl", finished / "summary.json"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "run"


def content(folder: Path) -> dict[str, str]:
    """Return every file and folder below, each file with its digest and modification time."""
    return {
        str(path.relative_to(folder)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def dni_train(monkeypatch: pytest.MonkeyPatch, cwd: Path, *words: str) -> int:
    """Run `dni-train WORDS` in this process and return its exit code."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["dni-train", *words])
    with pytest.raises(SystemExit) as left:
        command.main()
    return int(str(left.value.code))


@pytest.mark.parametrize(
    "words",
    [
        (*STARTED, "hydra.run.dir={run}", "optimizer.learning_rate=0.1"),
        (*STARTED, "hydra.run.dir={run}"),
        (*STARTED, "hydra.run.dir={run}", "time=synthetic", "model=mlp"),
        ("resume={run}", "optimizer.learning_rate=0.1", "steps=20", "hydra.run.dir={run}"),
        ("resume={run}", "hydra.run.dir={run}"),
        ("resume={run}", "resume_step=7", "hydra.run.dir=new"),
        ("resume=nowhere", "hydra.run.dir=new/deeper"),
        ("time=synthetic", "model=mlp"),
        ("data.path=nowhere", "hydra.run.dir=new"),
        ("steps=5", "hydra.run.dir=/proc/x/y"),
    ],
)
def test_a_refused_command_writes_nothing(
    words: tuple[str, ...], finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(finished.parent)
    assert dni_train(monkeypatch, finished.parent, *(word.format(run=finished) for word in words)) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1, output.err
    assert content(finished.parent) == before


def test_a_second_sweep_in_a_folder_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").write_text("seed: 0\n")
    before = content(tmp_path)
    assert dni_train(monkeypatch, tmp_path, "-m", "seed=0,1", "hydra.sweep.dir=sweep") == 2
    output = "dni-train: sweep already holds a sweep: name another hydra.sweep.dir\n"
    assert capsys.readouterr() == ("", output)
    assert content(tmp_path) == before


def test_composing_alone_writes_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows the settings that a resumed run would have."""
    before = content(finished.parent)
    monkeypatch.chdir(finished.parent)
    monkeypatch.setattr(sys, "argv", ["dni-train", f"resume={finished}", "steps=20", "--cfg", "job"])
    command.main()
    shown = capsys.readouterr().out.splitlines()
    assert {"steps: 20", "  learning_rate: 0.004", "  units: 8"} <= {*shown}
    assert content(finished.parent) == before


def test_report_and_resume_read_the_record_and_not_hydras_files(run_dir: Path) -> None:
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "config.yaml").write_text("optimizer: {learning_rate: 0.1}\n")
    (run_dir / ".hydra" / "overrides.yaml").write_text("- optimizer.learning_rate=0.1\n- steps=7\n")
    assert settings_of(read_run(run_dir))["optimizer.learning_rate"] == "0.004"
    resumed = settings(f"resume={run_dir}", "steps=20")
    assert (resumed.optimizer.learning_rate, resumed.steps) == (0.004, 20)


def test_a_folder_of_an_earlier_version_is_still_read(run_dir: Path) -> None:
    _, unsigned = (run_dir / CONFIG).read_text().split("\n", maxsplit=1)
    (run_dir / CONFIG).write_text(unsigned)
    assert read_record(run_dir).model.units == 8
    (run_dir / CONFIG).unlink()
    (run_dir / ".hydra").mkdir()
    (run_dir / ".hydra" / "config.yaml").write_text("optimizer: {learning_rate: 0.25}\n")
    assert settings_of(read_run(run_dir))["optimizer.learning_rate"] == "0.25"


#: Malicious records and the errors they give.
STRANGE = {
    "a tag that runs code": (b"seed: !!python/object/apply:os.system ['touch OWNED']\n", "could not determine a const"),
    "aliases": (b"devices: &a [x]\nexperiment: *a\n", "it has YAML aliases"),
    "another type": (b"- seed=1\n- hydra.run.dir=/tmp\n", "it holds no settings"),
    "not YAML": (b"a: [1\nb: }\n", "damaged"),
    "not text": (b"\xff\xfe\x00", "damaged"),
    "nothing": (b"", "it holds no settings"),
    "a nest": (b"[" * 60_000, "it is nested more than 8 deep"),
    "a giant": (b"#" * (2**16 + 1), "it is longer than 65536 bytes"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_malicious_record_is_refused_in_one_line(
    kind: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written, message = STRANGE[kind]
    (run_dir / CONFIG).write_bytes(written)
    with pytest.raises(ConfigError, match=message):
        read_plain(run_dir / CONFIG)
    before = content(run_dir.parent)
    assert dni_train(monkeypatch, run_dir.parent, f"resume={run_dir}", "steps=20") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dni-train: resume={run_dir}: {run_dir / CONFIG}: damaged: ")
    assert content(run_dir.parent) == before


def test_hydra_settings_in_a_record_are_ignored(run_dir: Path) -> None:
    """Earlier versions wrote a log wherever the folder's Hydra settings said."""
    target = run_dir.parent / "owned"
    (run_dir / CONFIG).write_text(f"seed: 0\nhydra: {{job_logging: {{handlers: {{file: {{filename: {target}}}}}}}}}\n")
    with pytest.raises(ResumeError, match="Key 'hydra' not in 'Config'"):
        settings(f"resume={run_dir}")


def test_text_in_a_record_is_not_interpolated(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "12345")
    plain = read_record(run_dir)
    plain.experiment = r"\${oc.env:SECRET}'${a"
    write_record(run_dir, plain)
    assert read_record(run_dir).experiment == r"\${oc.env:SECRET}'${a"
    assert settings(f"resume={run_dir}").experiment == r"\${oc.env:SECRET}'${a"


@pytest.mark.parametrize("damage", ["flipped", "cut", "added"])
def test_a_damaged_record_is_refused(damage: str, run_dir: Path) -> None:
    whole = bytearray((run_dir / CONFIG).read_bytes())
    place = whole.index(b"units: 8") + len(b"units: ")
    whole[place] ^= 1  # turns 8 into 9
    changed = {"flipped": bytes(whole), "cut": bytes(whole[:-9]), "added": bytes(whole) + b"run_id: x\n"}[damage]
    (run_dir / CONFIG).write_bytes(changed)
    for read in (lambda: read_record(run_dir), lambda: read_run(run_dir)):
        with pytest.raises(
            ConfigError, match=r"config\.yaml: damaged: its SHA-256 differs from the one in its first line"
        ):
            read()


def test_a_folder_in_use_is_refused_by_name(finished: Path) -> None:
    """For a new run, for a run resumed in the folder, and for one that resumes it elsewhere."""
    other = finished.parent / "other"
    with FileLock(finished / LOCK):
        before = content(finished.parent)
        for where in (finished, other):
            with pytest.raises(
                ConfigError, match=f"^{finished}: another run is writing to this folder; wait until it has end"
            ):
                launch(settings(f"resume={finished}", "steps=20"), where)
            assert where == other or content(finished.parent) == before
    other.rmdir()
    fresh = finished.parent / "fresh"
    fresh.mkdir()
    with FileLock(fresh / LOCK), pytest.raises(ConfigError, match=f"^{fresh}: another run is writing to this folder"):
        launch(settings(*STARTED), fresh)


def test_only_the_first_stage_of_an_engine_takes_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr("workers.launch.launcher.run_later_stage", lambda *given: ran.append(given))
    config = settings(*SMALL, "launch=external", "transport.peers=[127.0.0.1:1,127.0.0.1:2]")
    with FileLock(tmp_path / LOCK):
        launch_later_stage(config, tmp_path, RankInfo(1, 2, "WORLD_SIZE", True))
    assert len(ran) == 1
    assert os.listdir(tmp_path) == [LOCK]


def test_the_record_has_the_launch_settings_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the launch settings as given, not the rank: the run may be resumed in another way."""
    monkeypatch.setattr("workers.cli.one_run.run", lambda accepted: write_record(tmp_path, accepted.recorded))
    monkeypatch.setattr("workers.cli.one_run.report", lambda *given: None)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dni-train", *SMALL, "run_id=night"])
    command.main()
    assert read_record(tmp_path).launch == settings(*SMALL).launch
    assert (tmp_path / "outputs" / "night" / LOCK).exists()


def test_a_schedule_without_its_own_end_follows_the_new_number_of_steps(run_dir: Path) -> None:
    plain = read_record(run_dir)
    plain.optimizer.schedule = Cosine(decay_steps=10)
    write_record(run_dir, plain)
    assert settings(f"resume={run_dir}", "steps=20").optimizer.schedule.decay_steps is None
    plain.optimizer.schedule.decay_steps = 8
    write_record(run_dir, plain)
    assert settings(f"resume={run_dir}", "steps=20").optimizer.schedule.decay_steps == 8


def test_without_resume_no_record_is_read() -> None:
    config = settings(*STARTED)
    assert settle_resume(config) is config
