"""--help, --explain, --version, and suggestions for misspelt names."""

from __future__ import annotations

import re
from contextlib import nullcontext, suppress
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import pytest

import dni
import workers.cli.evaluate
import workers.cli.export
import workers.reporting.report
import workers.simulation.cli
from dni.errors import ConfigError
from workers.cli.explain import settings
from workers.cli.help import explanations
from workers.cli.train import main
from workers.config.convert import from_any, setting_names
from workers.config.settings import Config
from workers.config.suggest import did_you_mean, nearest
from workers.reporting.aggregate import group_runs
from workers.tracking.run import Run

CONF = Path(__file__).parents[3] / "conf"


def output_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return the output of `dni-train WORDS`, which must succeed."""
    monkeypatch.setattr("sys.argv", ["dni-train", *words])
    with suppress(SystemExit) if "--help" in words else nullcontext():
        main()
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """Return the error line of `dni-train WORDS`, which must be refused."""
    monkeypatch.setattr("sys.argv", ["dni-train", *words])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_every_setting_is_explained_and_every_number_has_a_unit() -> None:
    assert list(settings()) == setting_names()
    assert len(settings()) > 100
    unexplained = [name for name, one in settings().items() if len(one.meaning) < 5]
    assert not unexplained, "explain them in the comments of workers/config/schema.py or workers/config/settings.py"
    without = [name for name, one in settings().items() if one.is_number and not one.unit]
    assert not without, "begin their comments with a unit: # [steps] ..."


def test_one_setting_is_explained_in_full() -> None:
    text = " ".join(" ".join(explanations(["optimizer.learning_rate"])).split())
    assert text.startswith("optimizer.learning_rate [rate] of the stages")
    assert "default 0.004; values: number, above 0, and finite" in text
    assert "optimizer=sgd (0.5)" in text  # from conf/optimizer/sgd.yaml
    assert "experiment=mnist (0.001)" in text
    assert "adam (" not in text  # adam sets the default value
    kind = " ".join(explanations(["transport.backend"]))
    assert "default gloo; values: gloo | nccl" in kind
    assert "seed" not in kind
    assert "default null; values: whole number, 1 or more, or null" in " ".join(explanations(["data.length"]))


def test_a_comment_of_several_lines_is_read_whole() -> None:
    assert settings()["transport.ring_mb"].meaning == (
        "shared memory per direction for big tensors between two stages on one machine, allocated on demand (Linux, "
        "with unix sockets); 0: none"
    )
    assert (
        settings()["depth.update_periods"].meaning == "each stage works at multiples of its own; empty: at every step"
    )
    inherited = settings()["predictor.time.steps_per_target"]
    assert (inherited.unit, inherited.meaning) == ("steps", "optimizer steps of the predictor per target")


def test_shown_ranges_are_those_that_are_checked() -> None:
    assert settings()["optimizer.clip"].values.startswith(
        ("number, above 0, and finite", "whole number, above 0, and finite")
    )
    assert settings()["model.dropout"].values.startswith(
        ("number, 0 or more, and below 1", "whole number, 0 or more, and below 1")
    )
    assert settings()["steps"].values == "whole number, 1 or more"
    assert settings()["data.side"].values == "whole number"


def test_a_section_has_its_options_and_all_its_settings() -> None:
    lines = explanations(["predictor"])
    assert {f"predictor.{part}" for part in ("depth.clip", "time.context")} <= set(lines)
    assert any(line.startswith("    predictor=critic: A local model of the softmax loss") for line in lines)
    assert {f"optimizer.{each.name}" for each in fields(Config().optimizer)} <= set(explanations(["optimizer"]))


def test_explain_and_version_at_the_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert output_of(capsys, monkeypatch, "--explain", "optimizer.clip").startswith(
        "optimizer.clip\n    [norm] largest"
    )
    assert output_of(capsys, monkeypatch, "--explain=steps").startswith("steps\n")
    overview = output_of(capsys, monkeypatch, "--explain").splitlines()
    assert {line.partition(":")[0] for line in overview[1:] if line} == set(settings())
    assert max(map(len, overview)) <= 100
    wrong = refused(capsys, monkeypatch, "--explain", "optimizer.clips")
    assert "--explain optimizer.clips: no such setting (did you mean `optimizer.clip`?)" in wrong
    assert output_of(capsys, monkeypatch, "--version") == f"dni-train {dni.__version__}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "program",
    [
        workers.reporting.report.main,
        workers.cli.evaluate.main,
        workers.cli.export.main,
        workers.simulation.cli.main,
    ],
)
def test_the_other_commands_print_their_version(program, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SystemExit) as end:
        program(["--version"])
    name, version = capsys.readouterr().out.split()
    assert (end.value.code, name.startswith("dni-"), version) == (0, True, dni.__version__)


def test_the_version_is_that_of_the_package() -> None:
    assert metadata.version("dni") == dni.__version__


def test_help_fits_one_screen_and_its_lists_are_complete(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = output_of(capsys, monkeypatch, "--help").rstrip().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for group in ("depth", "time", "data", "model"):
        (begin,) = [n for n, line in enumerate(lines) if line.startswith(f" {group} ")]
        end = next(n for n in range(begin + 1, len(lines)) if not lines[n].startswith("   "))
        assert set(re.findall(r"\w+", " ".join(lines[begin:end]))) - {group, "images"} == {
            p.stem for p in (CONF / group).glob("*.yaml") if not p.read_text().startswith("# Experimental")
        }


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("optimizer.learning_rat=0.1", "`optimizer.learning_rate`"),
        ("learning_rate=0.1", "`depth.learning_rate` or `optimizer.learning_rate`"),
        ("optimzer.learning_rate=1", "`optimizer.learning_rate`"),
        ("optimzer=adam", "`optimizer`"),
        ("+optimizer.lr=1", "`optimizer.learning_rate`"),
        ("optimizer=adm", "`optimizer=adam`"),
        ("experiment=smok", "`experiment=smoke`"),
        ("model=lstmm", "`model=lstm`"),
        ("model.layer=2", "`model.layers`"),
        ("depth=syntetic", "`depth=synthetic`"),
        ("data=txt", "`data=text`"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(
    word: str, meant: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"did you mean {meant}" in refused(capsys, monkeypatch, word)


def test_no_suggestion_for_distant_words() -> None:
    assert nearest("xyzzy", setting_names()) == []
    assert did_you_mean("xyzzy", setting_names()) == ""
    assert did_you_mean("anything", []) == ""


def test_settings_from_python_and_keys_of_the_report_get_suggestions_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean `data.window`\?"):
        from_any({"data": {"windw": 3}})
    with pytest.raises(ConfigError, match=r"--by transprt: no run has it \(did you mean `transport`\?\); choose from"):
        group_runs([Run(tmp_path, {"method": {"depth": "local", "time": "full"}, "transport": "grpc"})], ["transprt"])
