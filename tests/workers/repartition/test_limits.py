"""Runs that cannot go on with their model cut elsewhere, and methods that lose something by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError
from tests.support.runs import tiny
from workers.api import TrainedRun
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint

LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "log_every": 1, "optimizer": {"clip": None}}


def refusal(config: Config, folder: Path) -> str:
    with pytest.raises(ConfigError) as error:  # exit code 2
        launch(config, folder)
    assert not folder.exists()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_windows_that_wait_for_their_gradients_cannot_be_cut_elsewhere(tmp_path: Path) -> None:
    late = {"depth": {"method": "delayed", "lag": 1}}
    launch(tiny(**late, steps=5, stages=3), tmp_path / "run")
    said = refusal(tiny(**late, steps=9, stages=2, resume=str(tmp_path / "run")), tmp_path / "on")
    # at a lag of 1 the first stage of three keeps 2 windows, the second 1
    assert said == (
        f"resume={tmp_path}/run: at step 5 the stages of depth=delayed keep 3 windows until their gradients come, each "
        "with its input at the cuts as they were: leave stages=3 and the cuts as they were, or take the weights alone "
        f"into a new run: start_from={tmp_path}/run instead of resume"
    )


@pytest.mark.parametrize("lag", [None, 2])
@pytest.mark.parametrize("stages", [1, 2, 4])
def test_windows_that_wait_for_corrections_stay_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lag: int | None, stages: int
) -> None:
    """Some cuts of 3 stages are cuts of 2 and of 4, too: targets for them may come after their window is gone."""
    settings = {"depth": {"method": "corrected", "lag": lag}, "log_every": 1}
    launch(tiny(**settings, steps=6, stages=3), tmp_path / "run")
    held = [len(checkpoint.load(tmp_path / "run", 6, part)["stage"]["held"]) for part in range(2)]
    launch(tiny(**settings, steps=12, stages=stages, resume=str(tmp_path / "run")), tmp_path / "on")
    summary = TrainedRun(tmp_path / "on").summary
    assert summary["steps"] == 12
    told = next(line for line in caplog.messages if "left behind" in line)
    left = [int(count) for count in re.findall(r"corrections of (\d+) window", told)]
    assert left == (held[:1] if stages == 4 else held)  # of 4 stages, the third is the second of 3


def test_what_else_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(tiny(**LOCKED, steps=5, stages=3), run)
    many = refusal(tiny(**LOCKED, steps=9, stages=7, resume=str(run)), tmp_path / "on")
    assert many.startswith("stages is 7, but this model can be cut into 1 to 5, beginning at embedding, lstm1, ")
    other = refusal(tiny(**LOCKED, steps=9, seed=1, stages=2, resume=str(run)), tmp_path / "on")
    assert "was another run: seed was 0, now 1; leave these settings as they were" in other
    assert "stages" not in other


def test_a_checkpoint_of_an_earlier_version_goes_on_as_it_was_cut(tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(tiny(**LOCKED, steps=5, stages=3), run)
    for part in range(3):
        state = checkpoint.load(run, 5, part)
        del state["stage"]["layers"]
        checkpoint.save(run, part, 3, 5, state)
    said = refusal(tiny(**LOCKED, steps=9, stages=2, resume=str(run)), tmp_path / "no")
    assert said.endswith("cannot be cut elsewhere: go on with stages=3 as it was, and cut the next one")
    launch(tiny(**LOCKED, steps=9, stages=3, resume=str(run)), tmp_path / "on")
    launch(tiny(**LOCKED, steps=12, stages=2, resume=str(tmp_path / "on")), tmp_path / "two")
    assert TrainedRun(tmp_path / "two").summary["steps"] == 12


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"depth": {"method": "synthetic_inputs", "lag": 1}}, "the model of inputs before "),
        ({"depth": {"method": "local"}}, "what learns in depth after "),
        ({"depth": {"method": "lambda_return", "lag": 1, "max_in_flight": 6}}, " keeps besides (windows"),
        ({"time": {"method": "lambda_return"}}, "what targets in time of "),
    ],
)  # fmt: skip
def test_other_methods_go_on_and_name_what_they_lose(
    changes: dict[str, Any], told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launch(tiny(**changes, steps=5, stages=4), tmp_path / "run")
    summary = launch(tiny(**changes, steps=9, stages=2, resume=str(tmp_path / "run")), tmp_path / "on").summary
    assert summary["steps"] == 9
    (line,) = [message for message in caplog.messages if " goes on in 2 stages" in message]
    assert told in line


def test_layers_that_learn_at_a_rate_of_their_stage_stay_in_it(tmp_path: Path) -> None:
    """As many stages and rates as before, but another layer would change from one to the other."""
    slow: dict[str, Any] = {"depth": {"method": "multi_rate", "update_periods": [1, 2]}, "stages": 2}
    launch(tiny(**slow, model={"split_points": ["lstm2"]}, steps=4), tmp_path / "run")
    moved = tiny(**slow, model={"split_points": ["lstm3"]}, steps=8, resume=str(tmp_path / "run"))
    said = refusal(moved, tmp_path / "on")
    assert (
        "depth=multi_rate has an update period for every stage, by which its layers have learned: leave stages=2"
        in said
    )
