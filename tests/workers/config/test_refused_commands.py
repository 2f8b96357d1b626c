"""Refusals of a command: one line, exit code 2, and nothing written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import LOCAL, SMALL, run, settings
from workers.cli.train import exit_codes
from workers.launch.launcher import launch


def refusal(capsys: pytest.CaptureFixture[str], run_dir: Path, *overrides: str) -> str:
    """Return the line of `dni-train OVERRIDES`, which must exit with code 2 and write nothing."""
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*overrides), run_dir)
    assert left.value.code == 2
    assert sorted(run_dir.rglob("*")) == before
    screen = capsys.readouterr()
    assert screen.out == ""
    (line,) = screen.err.splitlines()
    assert line.startswith("dni-train: ")
    return line.removeprefix("dni-train: ")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("nosuch=1", r"Could not override 'nosuch'.*dni-train --cfg job"),
        ("+nosuch=1", r"Key 'nosuch' not in 'Config'.*dni-train --cfg job"),
        ("depth.nosuch=1", r"Could not override 'depth\.nosuch'.*dni-train --cfg job"),
        (
            "depth=synthetic +depth.nosuch=1",
            r"depth\.nosuch: Synthetic has no such setting; it has: max_in_flight, lag$",
        ),
        ("depth.method=local", r"Could not override 'depth\.method'.* \(it is written depth=NAME, or depth\._target_="),
        ("time.method=full", r"Could not override 'time\.method'.* \(it is written time=NAME, or time\._target_="),
        ("depth.inputs=synthetic", r"\(it is written depth=synthetic_inputs now\)"),
        ("depth.clocks=[1,2]", r"\(it is written depth=multi_rate depth\.update_periods=\[1,2\]"),
        ("depth.update_probability=0.5", r"\(it is written depth=irregular depth\.update_probability=P now\)"),
        ("predictor.inputs.hidden=9", r"\(it is written depth=synthetic_inputs depth\.input_hidden=UNITS now\)"),
        ("predictor.inputs.learning_rate=1", r"\(it is written depth=synthetic_inputs depth\.input_learning_rate=R"),
        (
            "predictor.depth.kind=mlp",
            r"'predictor\.depth\.kind'.* \(it is written predictor=NAME, or predictor\.depth\.",
        ),
        ("predictor.time.kind=oracle", r"\(it is written predictor=NAME, .* \(kind=oracle: time=oracle\) now\)"),
        ("predictor.time.context=window", r"\(it is written predictor=soft_label_critic for context=window"),
        ("predictor.time.horizon=3", r"\(it is written time=lambda_return time\.horizon=WINDOWS now\)"),
        ("predictor.depth.replay=3", r"\(it is written depth=replay depth\.replay=TARGETS now\)"),
        ("predictor=mlp predictor.depth.eager_loss=true", r"Could not override 'predictor\.depth\.eager_loss'"),
        (
            "predictor=mlp +predictor.depth.eager_loss=true",
            r"predictor\.depth\.eager_loss: Mlp has no such setting; it has",
        ),
        ("depth.max_inflight=3", r"did you mean `depth\.max_in_flight`"),
        (
            "depth=nosuch",
            r"Could not find 'depth/nosuch' Available options in 'depth': 1f1b backprop corrected delayed gpipe "
            "interleaved_1f1b irregular irregular_local lambda_return local multi_rate multi_rate_backprop replay "
            "synthetic synthetic_inputs zero_bubble",
        ),
        ("experiment=nosuch", r"Available options in 'experiment': .*demo mnist smoke"),
        ("steps=abc", r"steps: Value 'abc' of type 'str' could not be converted to Integer"),
        ("steps=1.5", r"steps: Value '1.5' of type 'float' could not be converted to Integer"),
        ("steps=null", r"steps=null.*not Optional"),
        ("model.kind=rnn", r"Could not override 'model\.kind'.* \(it is written model=NAME, or model\._target_=MODULE"),
        ("data.kind=copy", r"Could not override 'data\.kind'.* \(it is written data=NAME, or data\._target_=MODULE"),
        ("+data.noise=1", r"data\.noise: Text has no such setting; it has: batch, window, sequence, "),
        ("model.split_points=softmax", r"model\.split_points: .*not a ListConfig"),
        ("optimizer.clip=yes", r"optimizer\.clip: Value 'yes' of type 'str' could not be converted to Float"),
        ("steps", r"Error parsing override 'steps' missing EQUAL"),
        ("data.path=${nosuch}", r"data\.path: Interpolation key 'nosuch' not found"),
        ("depth.lag=9", r"set depth\.max_in_flight=10 or more"),
        ("stages=6", r"stages is 6, but this model can be cut into 1 to 5, beginning at embedding, lstm1"),
        (
            "stages=2 model.split_points=[lstm9]",
            r"no layer lstm9; the layers are embedding, lstm1, lstm2, lstm3, softmax",
        ),
        ("devices=[tpu]", r"stage 0 asks for 'tpu': use auto, cpu or cuda:N"),
        ("devices=[cuda:99]", r"stage 0 asks for 'cuda:99', but this machine has \d+ GPUs: use auto or cpu"),
        (
            "transport=torch_distributed transport.backend=nccl devices=[cpu]",
            r"joins stages on GPUs, and stage 0 is on cpu: set devices=\[cuda:0,cuda:1\], say, or transport",
        ),
        ("data.path=/no/such/file", r"no such file or folder: /no/such/file; give a UTF-8 text file or a folder"),
        ("data.batch=100000", r"need 25700000 characters, it has \d+; use a longer text, a smaller batch or a shorter"),
        ("resume=/no/such/run", r"no config\.yaml here; give a run folder that dni-train wrote"),
    ],
)
def test_a_refusal_is_one_line_and_starts_nothing(
    overrides: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(message, refusal(capsys, tmp_path / "run", *overrides.split()))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, ...]]:
    """A run of ten steps with checkpoints at 5 and 10, and its overrides."""
    started = (*SMALL, *LOCAL, "steps=10", "checkpoint.every=5")
    folder = tmp_path_factory.mktemp("earlier") / "run"
    launch(settings(*started), folder)
    return folder, started


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], r"has already taken 10 steps: set steps above that, not 10"),
        (
            ["steps=20", "max_timesteps=60"],
            r"has already run through 60 time steps: set max_timesteps above that, not 60",
        ),
        (["steps=20", "resume_step=7"], r"no complete checkpoint of step 7; complete steps: \[5, 10\]"),
        (["steps=20", "seed=1"], r"was another run: seed was 0, now 1; leave these settings as they were"),
        (["steps=20", "model.units=9", "depth.lag=1"], r"model\.units was 8, now 9, depth\.lag was None, now 1"),
    ],
)
def test_a_resume_that_cannot_work_is_refused(
    more: list[str], message: str, earlier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = earlier
    line = refusal(capsys, tmp_path / "run", f"resume={folder}", *more)
    assert line.startswith(f"resume={folder}")
    assert re.search(message, line)


def test_resume_needs_a_complete_checkpoint(earlier: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = earlier
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    line = refusal(capsys, tmp_path / "run", f"resume={tmp_path}", "steps=20")
    assert line == f"resume={tmp_path}: it holds no complete checkpoint; start a new run, without resume"


def test_resume_repeats_the_recorded_settings_and_new_ones_win(earlier: Any) -> None:
    """Settings that a group has set are repeated, too; a group on the command line replaces them."""
    folder, started = earlier
    again, before = settings(f"resume={folder}", "steps=20", "transport=grpc"), settings(*started)
    assert (again.steps, again.transport.name, again.resume) == (20, "grpc", str(folder))
    assert again.launch == before.launch
    assert again.predictor == before.predictor
    assert again.model.units == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["depth.nosuch=1"], "Could not override 'depth.nosuch'"),
        (["depth=null"], "depth=null names no option: write depth=NAME, where NAME is 1f1b or backprop or "),
        (["-m", "depth=null,backprop"], "depth=null,backprop names no option: write depth=NAME, where NAME is 1f1b "),
        (["time=synthetic", "model=mlp"], "time=synthetic needs a recurrent model"),
    ],
)
@pytest.mark.long
def test_the_command_itself_refuses_with_one_line(overrides: list[str], message: str, tmp_path: Path) -> None:
    done = run(tmp_path, *overrides)
    assert (done.code, done.out) == (2, [])
    (line,) = done.err
    assert line.startswith(f"dni-train: {message}")
    assert list(tmp_path.iterdir()) == []
