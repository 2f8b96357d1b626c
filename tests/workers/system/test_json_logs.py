"""Logs as JSON: one object a line, with run, stage and step."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.support.commands import LOCAL, SMALL, Command
from workers.cli import train as command
from workers.system.json_logs import JsonFormatter, LoggedLines, as_logged, log_in_json, logged_text, note_step

KEYS = ["time", "level", "run", "stage", "step", "message"]


@pytest.fixture
def written(own_logging: None) -> Iterator[io.StringIO]:
    """What is logged, as JSON, by a process that runs all stages of the run `mine`."""
    text = io.StringIO()
    root = logging.getLogger()
    root.addHandler(logging.StreamHandler(text))
    root.setLevel(logging.INFO)
    log_in_json("mine")
    yield text
    logging.captureWarnings(False)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_run_stage_and_step(written: io.StringIO) -> None:
    log = logging.getLogger("any")
    log.info("at the start")
    note_step(0, 30)
    note_step(2, 20)
    log.warning("two\nlines: %d", 7)
    thread = threading.Thread(target=lambda: log.info("here"), name="stage-2")
    thread.start()
    thread.join()
    first, second, third = lines(written.getvalue())
    assert list(first) == KEYS
    assert [first[key] for key in KEYS[1:]] == ["INFO", "mine", None, None, "at the start"]
    assert [second[key] for key in KEYS[1:]] == ["WARNING", "mine", None, 20, "two\nlines: 7"]  # the slowest stage's
    assert [third[key] for key in KEYS[1:]] == ["INFO", "mine", 2, 20, "here"]
    age = datetime.now(timezone.utc) - datetime.fromisoformat(first["time"])
    assert timedelta(0) <= age < timedelta(seconds=30)


def test_an_error_has_its_traceback_in_the_same_line() -> None:
    record = logging.LogRecord("", logging.ERROR, "", 0, "failed", None, None)
    try:
        raise ValueError("no")
    except ValueError:
        record.exc_info = sys.exc_info()
    (line,) = lines(JsonFormatter("mine", 3).format(record))
    assert (line["stage"], line["error"].splitlines()[-1]) == (3, "ValueError: no")


def test_what_a_console_prints_is_logged_line_by_line(written: io.StringIO) -> None:
    console = Console(file=LoggedLines())
    assert not console.is_terminal
    console.print("step 5 of 10\nand more", soft_wrap=True)
    assert [line["message"] for line in lines(written.getvalue())] == ["step 5 of 10", "and more"]


def test_the_last_line_of_a_command_is_logged_alike(written: io.StringIO) -> None:
    (line,) = lines(as_logged("dni-train: lost", logging.ERROR))
    assert (line["level"], line["message"]) == ("ERROR", "dni-train: lost")
    assert logged_text(json.dumps(line)) == "dni-train: lost"
    assert [logged_text(text) for text in (" plain ", "7", "{}", '{"a')] == ["plain", "7", "{}", '{"a']


def test_text_stays_text() -> None:
    assert as_logged("dni-train: lost", logging.ERROR) == "dni-train: lost"


@pytest.mark.long
@pytest.mark.usefixtures("own_logging")
def test_every_line_of_a_run_in_threads_is_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = (*SMALL, *LOCAL, "steps=10", "tracking.log_format=json", f"hydra.run.dir={tmp_path / 'run'}")
    monkeypatch.setattr(sys, "argv", ["dni-train", *given])
    monkeypatch.chdir(tmp_path)
    command.main()
    logging.captureWarnings(False)
    out, err = capsys.readouterr()
    printed = lines(out)
    assert err == ""
    assert {line["run"] for line in printed} == {"run"}
    assert any(line["message"].startswith("step 10 of 10 (100%)") for line in printed)
    assert (printed[-1]["message"][:8], printed[-1]["step"]) == ("step 10,", 10)
    assert lines((tmp_path / "run" / "dni.log").read_text()) == printed


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_failed_stage_logs_its_error_as_json(tmp_path: Path) -> None:
    huge = ("optimizer=sgd", "optimizer.learning_rate=1e20", "optimizer.clip=null")
    with Command(tmp_path, (*SMALL, *huge, "launch=processes", "steps=1000", "tracking.log_format=json")) as command:
        done = command.finish()
        folder = command.run_dir()
    last = lines("\n".join(done.err))[-1]
    assert (done.code, last["level"], last["run"]) == (1, "ERROR", folder.name)
    assert last["message"].startswith("dni-train: DivergedError: stage ")
    logged = [line for k in (0, 1) for line in lines((folder / "logs" / f"stage-{k}.log").read_text())]
    failed = [line for line in logged if "DivergedError" in line.get("error", "")]
    assert failed
    assert all(line["message"] == f"stage {line['stage']} ended with an error" for line in failed)
    assert all(line["step"] >= 1 for line in failed)
