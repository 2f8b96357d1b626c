"""A custom transport: used by a run in processes, resumed, and refused if incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.plugin.tcp import Tcp
from tests.support.commands import LOCAL, SMALL, Command, settings
from tests.support.runs import assert_same, parameters_of, tiny
from workers.comm.transports.grpc.transport import Grpc
from workers.comm.transports.local import Local
from workers.config.convert import from_any, to_plain
from workers.launch.launcher import launch

TARGET = "tests.plugin.tcp.Tcp"
SETTINGS: dict[str, Any] = {"depth": {"lag": 1}, "checkpoint": {"every": 4, "keep": 9}}
OWN: dict[str, Any] = {"transport": {"_target_": TARGET, "no_delay": False}, "launch": {"mode": "processes"}}


@pytest.mark.long
def test_run_in_processes_equals_one_in_memory_and_resumes(tmp_path: Path) -> None:
    launch(tiny(**SETTINGS), tmp_path / "local")
    summary = launch(tiny(**SETTINGS, **OWN), tmp_path / "whole").summary
    assert (summary["transport"], summary["launch"]) == ("Tcp", "processes")
    assert_same(parameters_of(tmp_path / "local", 2), parameters_of(tmp_path / "whole", 2))
    launch(tiny(**SETTINGS, **OWN, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "local", 2), parameters_of(tmp_path / "again", 2))


def test_threads_are_joined_too(tmp_path: Path) -> None:
    launch(tiny(**SETTINGS, transport={"_target_": TARGET, "delay_ms": 2}, launch={"mode": "threads"}), tmp_path / "a")
    launch(tiny(**SETTINGS), tmp_path / "b")
    assert_same(parameters_of(tmp_path / "a", 2), parameters_of(tmp_path / "b", 2))


@pytest.mark.parametrize(
    "words", [f"transport={TARGET}", f"transport._target_={TARGET}", f"transport=grpc transport._target_={TARGET}"]
)
def test_command_names_the_class_and_has_its_settings_only(words: str) -> None:
    config = settings(*words.split(), "transport.no_delay=false", "transport.timeout_s=9")
    assert config.transport == Tcp(no_delay=False, timeout_s=9)


@pytest.mark.long
def test_the_command_trains_over_it(tmp_path: Path) -> None:
    words = (*SMALL, "steps=4", f"transport={TARGET}", "transport.no_delay=false", "hydra.run.dir=run")
    with Command(tmp_path, words, environment={"PYTHONPATH": str(Path(__file__).parents[2])}) as command:
        done = command.finish()
    assert (done.code, json.loads((tmp_path / "run/summary.json").read_text())["transport"]) == (0, "Tcp")


@pytest.mark.long
def test_run_can_resume_over_another_transport(tmp_path: Path) -> None:
    """The new transport does not take over settings of the old one."""
    folder = tmp_path / "run"
    words = (*SMALL, *LOCAL, "steps=4", "checkpoint.every=2")
    grpc = ("transport=grpc", "transport.ring_mb=64", "transport.timeout_s=30", "launch=threads")
    launch(settings(*words[:-4], "steps=4", "checkpoint.every=2", *grpc), folder)
    again = f"resume={folder}"
    assert settings(again).transport == Grpc(ring_mb=64, timeout_s=30)
    assert settings(again, "transport.timeout_s=20").transport == Grpc(ring_mb=64, timeout_s=20)
    assert settings(again, "transport=local").transport == Local()
    assert settings(again, "experiment=copy").transport == Local()  # the experiment sets transport=local
    assert settings(again, f"transport={TARGET}", "transport.no_delay=false").transport == Tcp(no_delay=False)
    config = settings(again, "steps=6", f"transport={TARGET}")
    assert launch(config, tmp_path / "again").summary["transport"] == "Tcp"
    assert settings(f"resume={tmp_path / 'again'}").transport == Tcp()


def test_its_settings_are_typed_and_recorded() -> None:
    config = tiny(**SETTINGS, **OWN)
    assert config.transport == Tcp(no_delay=False, timeout_s=30)
    assert json.loads(json.dumps(to_plain(config)))["transport"]["_target_"] == TARGET
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    ("transport", "says"),
    [
        ({"_target_": TARGET, "no_dely": 1}, r"transport\.no_dely: Tcp has .* \(did you mean `transport\.no_delay`"),
        ({"_target_": TARGET, "no_delay": "much"}, r"transport\.no_delay: Value 'much' is not a valid bool"),
        ({"_target_": "no_such_module.Wire"}, r"no_such_module cannot be imported .*put its folder on PYTHONPATH"),
        ({"_target_": "tests.plugin.tcp.Tpc"}, r"has no Tpc \(did you mean `tests\.plugin\.tcp\.Tcp`"),
        ({"_target_": "pathlib.Path"}, r"is no Transport: make it a subclass of workers\.comm\.transports\.base\.Tran"),
        ({"_target_": "tests.plugin.tcp.Unmarked"}, r"is no dataclass: write @dataclass above it"),
        ({"_target_": "tests.plugin.tcp.Unfinished"}, r"lacks connect, which every Transport has"),
    ],
)
def test_incomplete_classes_are_refused_in_one_line(transport: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        tiny(transport=transport)
    assert "\n" not in str(refused.value)


@pytest.mark.long
def test_command_refuses_a_class_that_cannot_be_imported(tmp_path: Path) -> None:
    with Command(tmp_path, ("transport=no_such_module.Wire",)) as command:
        done = command.finish()
    (line,) = done.err
    assert done.code == 2
    assert line.startswith("dni-train: transport._target_=no_such_module.Wire: no_such_module cannot be imported")
    assert not list(tmp_path.iterdir())
