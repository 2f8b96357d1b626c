"""What a checkpoint holds of every part, found again once the model is cut elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import assert_same, parameters_of, tiny
from workers.api import TrainedRun
from workers.cli.evaluate import evaluate
from workers.cli.export import export
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.launch.threads import run_threads
from workers.runtime.job import Job
from workers.storage import checkpoint
from workers.storage.record import read_record, write_record

GROUPED, LION = "tests.workers.repartition.grouped.Grouped", "tests.plugin.lion.Lion"
FOUR = {"layers": 3, "split_points": ["lstm2", "lstm3", "softmax"]}
TWO = {"layers": 3, "split_points": ["lstm3"]}
BOTH: dict[str, Any] = {"depth": {"method": "synthetic", "lag": 1}, "time": {"method": "synthetic"}, "steps": 5}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "log_every": 1, "optimizer": {"clip": None}}


def saved_again(config: Config, folder: Path) -> list[dict[str, Any]]:
    """What the parts of a resumed run hold before their first step."""
    config, data = settle(config, None)
    stop = Event()
    stop.set()
    run_threads(Job(config, folder, lambda record: None, stop, data))
    (step,) = checkpoint.complete_steps(folder)
    return [checkpoint.load(folder, step, part) for part in range(config.parts)]


def loaded(folder: Path, step: int, parts: int) -> list[dict[str, Any]]:
    return [checkpoint.load(folder, step, part) for part in range(parts)]


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embedding and lstm1, lstm2, lstm3, softmax: a predictor of the gradient at every cut, in depth and in time."""
    folder = tmp_path_factory.mktemp("moved") / "four"
    launch(tiny(**BOTH, stages=4, model=FOUR), folder)
    return folder


def test_what_is_saved_follows_the_layers_and_the_cuts(
    four: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Embedding, lstm1 and lstm2, then lstm3 and softmax: the cut after lstm2 stays, as does lstm3 on its own."""
    asked = tiny(**{**BOTH, "steps": 9}, stages=2, model=TWO, resume=str(four))
    new, old = saved_again(asked, tmp_path / "two"), loaded(four, 5, 4)
    assert_same(
        {**new[0]["stage"]["module"], **new[1]["stage"]["module"]},
        {name: value for part in old for name, value in part["stage"]["module"].items()},
    )
    adam = [part["stage"]["optimizer"]["state"] for part in old]  # embedding and 4 of lstm1; 4; 4; 2
    wanted = [*(adam[0][n] for n in range(5)), *(adam[1][n] for n in range(4))]
    assert same([new[0]["stage"]["optimizer"]["state"][n] for n in range(9)], wanted)
    assert same(new[0]["stage"]["state"], old[0]["stage"]["state"] + old[1]["stage"]["state"])
    assert same(new[1]["stage"]["state"], old[2]["stage"]["state"])
    assert same(new[0]["depth"], old[1]["depth"])
    assert new[0]["depth"]["sent"]
    assert new[0]["depth"]["updates"] == 4  # at step t the target of step t - 1
    assert same(new[0]["early"], old[1]["early"])
    assert len(new[0]["early"]) == 1
    assert same(new[1]["time"], old[2]["time"])
    assert new[0]["time"]["updates"] == 0
    assert same(new[0]["upstream"], old[0]["upstream"])
    assert [part["journal"]["tally"]["steps"] for part in new] == [5, 5]
    assert new[1]["journal"]["watch"] == old[3]["journal"]["watch"]
    assert new[0]["journal"]["watch"]["first"] is None
    assert caplog.messages == [
        f"resume={four} goes on in 2 stages (cut before lstm3; the checkpoint: cut before lstm2, lstm3, softmax); left "
        "behind: what learns in depth after lstm1, 1 target for it that had come early, what learns in time in "
        "embedding to lstm1, what learns in time in lstm2, what learns in depth after lstm3, 1 target for it that had "
        "come early; beginning anew: what learns in time in embedding to lstm2; counted otherwise: optimizer.clip=1 "
        "limits the gradient of each part by itself"
    ]


def test_one_stage_becomes_several(four: Path, tmp_path: Path) -> None:
    """From 4 to 1 and to 3: no weight, and nothing that Adam keeps, is lost on the way."""
    launch(tiny(**{**BOTH, "steps": 7}, stages=1, resume=str(four)), tmp_path / "one")
    three = tiny(**{**BOTH, "steps": 9}, stages=3, resume=str(tmp_path / "one"))
    new, old = saved_again(three, tmp_path / "three"), loaded(tmp_path / "one", 7, 1)[0]["stage"]
    assert_same({n: v for part in new for n, v in part["stage"]["module"].items()}, old["module"])
    adam = [part["stage"]["optimizer"]["state"] for part in new]
    assert same(
        [state[n] for state in adam for n in range(len(state))], [old["optimizer"]["state"][n] for n in range(15)]
    )
    assert same([tensor for part in new for tensor in part["stage"]["state"]], old["state"])
    assert [part["depth"].get("updates") for part in new] == [0, 0, None]


def test_a_run_with_synthetic_gradients_goes_on_as_one_run(four: Path, tmp_path: Path) -> None:
    summary = launch(tiny(**{**BOTH, "steps": 20}, stages=2, model=TWO, resume=str(four)), tmp_path / "two").summary
    assert (summary["steps"], summary["stages"], summary["sittings"]) == (20, 2, 2)
    first = TrainedRun(four).summary
    assert summary["id"] == first["id"]
    curve = TrainedRun(tmp_path / "two").curve("train")
    assert curve.index.tolist() == [5, 10, 15, 20]  # the first by stage 3, the others by stage 1
    assert curve["loss"].notna().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"_target_": GROUPED, "clip": None, "accumulate": 3}},
        {"optimizer": {"_target_": LION, "clip": None, "schedule": {"kind": "cosine", "decay_steps": 9}}},
        {"optimizer": {"kind": "nadam", "clip": None}, "data": {"kind": "copy", "window": 4, "sequence": None}},
        {"model": {"kind": "transformer", "layers": 3}, "time": {"method": "full"}},
    ],
    ids=["groups and gathered gradients", "an optimizer of one's own", "a curriculum", "a transformer"],
)  # fmt: skip
def test_a_locked_run_goes_on_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = {**LOCKED, **changes}
    launch(tiny(**settings, steps=4, stages=3), tmp_path / "three")
    launch(tiny(**settings, steps=9, stages=2, resume=str(tmp_path / "three")), tmp_path / "two")
    launch(tiny(**settings, steps=9, stages=2), tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "two", 2), parameters_of(tmp_path / "whole", 2))


def test_random_numbers_go_on_where_the_same_layers_draw_them(tmp_path: Path) -> None:
    """Of embedding | lstm1, dropout1 | lstm2, softmax one cut goes: the second stage's draws are then the first's."""
    model = {"layers": 2, "dropout": 0.5}
    three: dict[str, Any] = {**LOCKED, "stages": 3, "model": {**model, "split_points": ["lstm1", "lstm2"]}}
    two = {**LOCKED, "stages": 2, "model": {**model, "split_points": ["lstm2"]}}
    launch(tiny(**three, steps=5), tmp_path / "three")
    launch(tiny(**two, steps=9, resume=str(tmp_path / "three")), tmp_path / "two")
    launch(tiny(**three, steps=9), tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "two", 2), parameters_of(tmp_path / "whole", 3))


def test_layers_that_had_random_states_of_their_own_draw_from_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = {"layers": 3, "dropout": 0.5}
    three: dict[str, Any] = {**LOCKED, "stages": 3, "model": {**model, "split_points": ["lstm2", "lstm3"]}}
    launch(tiny(**three, steps=5), tmp_path / "run")
    two = {**LOCKED, "stages": 2, "model": {**model, "split_points": ["lstm3"]}}
    asked = tiny(**two, steps=9, resume=str(tmp_path / "run"))
    first, again = (saved_again(asked, tmp_path / name)[0]["stage"]["random"]["cpu"] for name in ("a", "b"))
    assert torch.equal(first, again)
    used = [part["stage"]["random"].get("cpu") for part in loaded(tmp_path / "run", 5, 3)]
    begun = [torch.Generator().manual_seed(stage).get_state() for stage in range(3)]
    assert not any(torch.equal(first, state) for state in [*used[:2], *begun])
    assert "left behind: the random state of the dropout in embedding to dropout2" in caplog.messages[0]


def test_a_run_goes_on_in_its_own_folder_and_all_its_checkpoints_stay_readable(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("a dog sees a cat\n" * 60)
    own: dict[str, Any] = {
        **LOCKED, "checkpoint": {"every": 5, "keep": 9}, "evaluate": {"every": 5},
        "data": {"path": str(tmp_path / "text.txt")},
    }  # fmt: skip
    run = tmp_path / "run"
    launch(tiny(**own, steps=5, stages=3), run)
    before = evaluate(run, "valid", "5")
    launch(tiny(**own, steps=10, stages=2, resume=str(run)), run)
    assert [checkpoint.stages_of(run, step) for step in (5, 10)] == [3, 2]
    assert evaluate(run, "valid", "5") == before
    export(run, tmp_path / "five.safetensors", "5")
    assert load_file(tmp_path / "five.safetensors").keys() == parameters_of(run, 2).keys()
    launch(tiny(**own, steps=2, stages=1, start_from=str(run), start_step="5"), tmp_path / "new")
    launch(tiny(**own, steps=10, stages=1), tmp_path / "whole")
    assert_same(parameters_of(run, 2), parameters_of(tmp_path / "whole", 1))


def test_a_sitting_that_was_killed_before_it_saved_is_begun_again(tmp_path: Path) -> None:
    """The record has the new number of stages, and the newest checkpoint the old one."""
    run = tmp_path / "run"
    launch(tiny(**LOCKED, steps=5, stages=3), run)
    write_record(run, replace(read_record(run), stages=2))
    launch(tiny(**LOCKED, steps=10, stages=2, resume=str(run)), tmp_path / "on")
    launch(tiny(**LOCKED, steps=10, stages=2), tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "on", 2), parameters_of(tmp_path / "whole", 2))
