"""Ctrl-C before the first step, and a closed terminal."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.commands import LOCAL, SMALL, Command, wait_for
from workers.cli import commands, ending
from workers.cli import train as command
from workers.launch import accept
from workers.launch.external import ignoring_signals
from workers.system.signals import ENDING

pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_during_the_imports_is_one_line(number: signal.Signals, tmp_path: Path) -> None:
    with Command(tmp_path, (*SMALL, *LOCAL)) as command:
        maps = Path(f"/proc/{command.process.pid}/maps")
        wait_for(lambda: "libtorch" in maps.read_text(), "the import of torch", within=60)
        command.process.send_signal(number)
        done = command.finish()
    assert (done.code, done.out) == (130, [])
    assert done.err == ["dni-train: stopped before the run began; nothing was written"]
    assert list(tmp_path.iterdir()) == []


def test_sigterm_after_the_imports_ends_a_command_as_ctrl_c_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("slow")
    module.main = lambda: signal.raise_signal(signal.SIGTERM)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slow", module)
    monkeypatch.setattr(commands, "refuse_too_old", lambda name: None)
    before = {number: signal.getsignal(number) for number in ENDING}
    try:
        with pytest.raises(SystemExit) as left:
            commands._run("dni-slow", "slow")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert left.value.code == 130
    assert capsys.readouterr().err == "dni-slow: stopped\n"


def test_ctrl_c_during_the_checks_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accept, "refuse_misfit", lambda config: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(sys, "argv", ["dni-train", *SMALL, *LOCAL])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 130
    assert capsys.readouterr().err == "dni-train: stopped without saving; the last checkpoint remains\n"
    assert list(tmp_path.iterdir()) == []


def test_a_later_stage_of_an_engine_ignores_a_closed_terminal() -> None:
    """The first stage handles it and stops the others."""
    with ignoring_signals():
        assert {signal.getsignal(number) for number in ENDING} == {signal.SIG_IGN}
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} == {*ENDING}


def test_a_closed_terminal_does_not_change_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def write(self, text: str) -> int:
            raise OSError("Input/output error")

    monkeypatch.setattr(sys, "stderr", Gone())
    with pytest.raises(SystemExit) as left:
        ending.leave(130, "stopped after step 5")
    assert left.value.code == 130
