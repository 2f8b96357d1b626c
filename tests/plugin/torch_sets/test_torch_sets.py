"""Data sets of torch: read in order or shuffled, resumed exactly, evaluated, and refused in one line."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.data import DataContext
from dni.data.base import Data
from dni.errors import ConfigError, DataError
from tests.plugin.torch_sets import sets
from tests.support.commands import settings
from tests.support.runs import assert_same, parameters_of, plain_training, tiny
from workers.cli.evaluate import evaluate
from workers.cli.train import exit_codes
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.launcher import launch

SETS = "tests.plugin.torch_sets.sets"
EXAMPLES: dict[str, Any] = {"batch": 4, "window": 1, "sequence": None}
LOCKED: dict[str, Any] = {"depth": {"method": "backprop"}, "optimizer": {"clip": None}}
SAVED: dict[str, Any] = {"checkpoint": {"every": 4, "keep": 9}}
PROCESSES: dict[str, Any] = {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}

KINDS = ["mapped", "streamed", "endless", "placed", "loaded"]


def own(kind: str, data: dict[str, Any] | None = None, **changes: Any) -> Config:
    sections = {"model": {"_target_": f"{SETS}.network"}, "data": {"_target_": f"{SETS}.{kind}", **EXAMPLES}}
    return tiny(**{**sections, "data": {**sections["data"], **(data or {})}, **changes})


def opened(kind: str, seed: int = 3, **data: Any) -> Data:
    found = own(kind, data).data.located()
    return found.open(DataContext(window=1, seed=seed, valid_windows=2))


@pytest.mark.parametrize("kind", KINDS)
def test_locked_training_equals_the_unsplit_model(kind: str, tmp_path: Path) -> None:
    launch(own(kind, **LOCKED), tmp_path)
    assert_same(parameters_of(tmp_path, 2), plain_training(own(kind, **LOCKED)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_an_uninterrupted_one(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """22 items in batches of 4 with a smaller last one: step 8 is in the middle of the second pass."""
    chosen = {"data": {"drop_last": False}, "depth": {"method": "synthetic", "lag": 1}, **SAVED}
    launch(own(kind, **chosen), tmp_path / "whole")
    with caplog.at_level(logging.WARNING):
        launch(own(kind, **chosen, resume=str(tmp_path / "whole"), resume_step=8), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))
    again = [each.message for each in caplog.records if "reading" in each.message]
    position = {"streamed": 2, "endless": 8, "loaded": 2}.get(kind)  # a pass has 6 windows; the endless one is one pass
    assert len(again) == (position is not None)
    assert position is None or again[0].startswith(f"data={kind}, train: reading {position} batches again to go on")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # in torchdata 0.11
def test_a_stateful_data_loader_goes_on_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """22 items in batches of 4: steps 3 and 8 are inside of passes, step 5 is at the end of one."""
    chosen = {**LOCKED, "checkpoint": {"every": 1, "keep": 10}}
    launch(own("stateful", **chosen), tmp_path / "whole")
    for step in (3, 5, 8):
        again = tmp_path / f"again{step}"
        launch(own("stateful", **chosen, resume=str(tmp_path / "whole"), resume_step=step), again)
        assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(again, 2))
    assert not [each.message for each in caplog.records if "reading" in each.message]


@pytest.mark.long
def test_train_in_processes_resume_and_are_evaluated(tmp_path: Path) -> None:
    chosen = {**LOCKED, **SAVED, **PROCESSES}
    launch(own("mapped", **chosen), tmp_path / "whole")
    assert_same(parameters_of(tmp_path / "whole", 2), plain_training(own("mapped", **LOCKED)))
    launch(own("mapped", **chosen, resume=str(tmp_path / "whole"), resume_step=4), tmp_path / "again")
    assert_same(parameters_of(tmp_path / "whole", 2), parameters_of(tmp_path / "again", 2))


@pytest.mark.long
def test_pipelines_read_them(tmp_path: Path) -> None:
    pipeline = {"depth": {"method": "1f1b", "microbatches": 2}, "optimizer": {"clip": None}}
    launch(own("mapped", **pipeline, **PROCESSES), tmp_path)
    split, whole = parameters_of(tmp_path, 2), plain_training(own("mapped", **LOCKED))
    assert max((split[name] - whole[name]).abs().max().item() for name in whole) < 1e-5


@pytest.mark.parametrize(("kind", "split", "labels"), [("mapped", None, 7), ("streamed", "valid", 10)])
def test_evaluation_reads_every_item_once(kind: str, split: str | None, labels: int, tmp_path: Path) -> None:
    launch(own(kind, **LOCKED, **SAVED), tmp_path)
    found = evaluate(tmp_path, split)
    assert (found["split"], found["labels"]) == (split or "test", labels)


def test_every_pass_reads_all_items_in_another_order() -> None:
    source = opened("mapped", drop_last=False, noise=0.0).train
    passes = [torch.cat([source.next().inputs for _ in range(6)]) for _ in range(2)]
    whole = torch.stack([x for x, _ in sets.points("train")])
    for each in passes:
        assert each.sum(1).sort().values.tolist() == whole.sum(1).sort().values.tolist()
        assert not torch.equal(each, whole)
    assert not torch.equal(*passes)
    source.load_state_dict({"window": 5})
    assert len(source.next().labels) == 2  # 22 = 5 * 4 + 2
    dropped = opened("mapped").train
    assert [len(dropped.next().labels) for _ in range(12)] == 12 * [4]


@pytest.mark.parametrize("kind", ["mapped", "streamed", "loaded"])
def test_random_items_depend_on_the_seed_and_the_window_alone(kind: str) -> None:
    first, second, other = (opened(kind, seed).train for seed in (3, 3, 4))
    before = torch.get_rng_state()
    windows = [first.next().inputs for _ in range(3)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert all(torch.equal(each, second.next().inputs) for each in windows)
    assert not torch.equal(windows[0], other.next().inputs)


def test_without_shuffling_items_come_in_their_order() -> None:
    source = opened("mapped", shuffle=False, noise=0.0).train
    assert torch.equal(source.next().inputs, torch.stack([x for x, _ in sets.points("train")[:4]]))


def test_settings_of_the_function_are_typed_and_recorded() -> None:
    config = own("mapped", {"noise": 0.5})
    assert (config.data.name, config.data.noise) == ("mapped", 0.5)  # type: ignore[attr-defined]
    assert to_plain(config)["data"]["_target_"] == f"{SETS}.mapped"
    filled = to_plain(config) | {
        "data": to_plain(config)["data"] | {"items": {"inputs": "float32 3", "labels": "int64"}}
    }
    assert from_any(filled).data.gives.name == "vectors"


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("own", {}, r"data\.classes is not set: the labels of data=own are classes: set data\.classes=10, say"),
    (
        "own",
        {"wrong": "error"},
        r"data=own failed for split=train: IndexError: list index out of range \(sets\.py, line",
    ),
    ("iterator", {}, r"data=iterator gives a list_iterator for split=train, and must give a torch Dataset, an "),
    ("without_parts", {}, r"data=without_parts gives None for split=valid: return its data, a part of that for"),
    ("own", {"wrong": "one"}, r"data=own, train item 5 is a tuple of 1, and must be two things: \(inputs, labels\)"),
    (
        "own",
        {"wrong": "text"},
        r"data=own, train item 5: inputs is a str, and must be a tensor: convert it in the data",
    ),
    ("mapped", {"batch": 23}, r"data=mapped, train has 22 items, fewer than one batch of 23: set data\.batch=22"),
    ("endless", {"shuffle": True}, r"data\.shuffle=true needs a length and items by number, which the Stream of data="),
    ("loaded", {"size": 5}, r"data=loaded, \w+ batch 0 has 5 rows, and data\.batch=4: set data\.batch=5"),
]


@pytest.mark.parametrize(("kind", "data", "message"), REFUSED)
def test_wrong_data_sets_are_refused_in_one_line(kind: str, data: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        launch(own(kind, data), tmp_path)
    assert "\n" not in str(caught.value)


WRONG = [
    ("label", r"train item 5 has the label 9, and data\.classes=4: set data\.classes=10, or correct the data"),
    ("size", r"train item 5: inputs is float32 \(5,\), where the first items have float32 3: give all items the same"),
    ("type", r"train item 5: inputs is int64 \(3,\), where the first items have float32 3: give all items the same"),
    (
        "named",
        r"train item 5: its inputs are x, and those of the first items one tensor: give all items the same names",
    ),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_a_wrong_item_is_named_with_its_values(wrong: str, message: str) -> None:
    source = opened("own", wrong=wrong, classes=4, shuffle=False).train
    source.next()
    with pytest.raises(DataError, match=message) as caught:
        source.next()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "more", ["data.classes=4 data.wrong=one", "data.shuffle=false", "data.classes=4 data.batch=90"]
)
def test_the_command_ends_with_code_2_and_writes_nothing(
    more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"model={SETS}.network data={SETS}.own stages=2 time=truncated {more}".split()
    with pytest.raises(SystemExit) as left, exit_codes():
        launch(settings(*words), tmp_path / "run")
    assert left.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_validation_without_end_needs_a_number_of_windows() -> None:
    with pytest.raises(ConfigError, match=r"no length for split=valid, .* set evaluate\.windows=50, say"):
        own("endless").data.located().open(DataContext(window=1))
