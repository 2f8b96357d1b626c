"""evaluate.patience: when it ends a run, which checkpoint it keeps, and how it continues after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dni.errors import DivergedError, ResumeError
from tests.support.commands import summary_of
from tests.support.runs import assert_same, parameters_of, tiny
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.storage import checkpoint
from workers.tracking.early_stopping import Stop, best, passes_since_best, stop_when_no_better


def passes(*bits: float | None) -> list[dict[str, Any]]:
    return [{"kind": "valid", "step": n, "bits_per_label": b} for n, b in enumerate(bits, 1)]


@pytest.mark.parametrize(
    ("bits", "step", "since"),
    [
        ((), None, 0),
        ((3.0,), 1, 0),
        ((3.0, 2.0, 2.5, 2.0), 2, 2),  # an equal pass is not better
        ((None, 2.0, None), 2, 1),
        ((None, None), None, 2),
    ],
)
def test_the_best_pass_and_the_passes_since(bits: tuple[float | None, ...], step: int | None, since: int) -> None:
    chosen = best(passes(*bits))
    assert (chosen and chosen["step"], passes_since_best(passes(*bits))) == (step, since)


def test_best_uses_the_loss_if_it_is_not_in_bits() -> None:
    losses = (0.3, 0.1, None, 0.2)
    records = [{"kind": "valid", "step": n, "loss": x, "unit": "squared error"} for n, x in enumerate(losses, 1)]
    chosen = best(records)
    assert (chosen and chosen["step"], passes_since_best(records)) == (2, 2)


def stops_at(patience: int, *bits: float | None, last: int = 99) -> int | None:
    """Return the step of the pass that stops the run, or None."""
    kept: list[dict[str, Any]] = []
    stop = Stop()
    note = stop_when_no_better(kept.append, kept, stop, patience, last)
    for record in passes(*bits):
        note({"kind": "train", "step": record["step"]})
        assert not stop.is_set()
        kept.pop()
        note(record)
        if stop.is_set():
            assert stop.reason == "patience"
            return int(record["step"])
    return None


def test_patience_ends_after_that_many_passes_without_a_better_one() -> None:
    assert stops_at(1, 3.0, 2.0, 2.5, 1.0) == 3
    assert stops_at(2, 3.0, 2.0, 2.5, 1.0, 1.0, 1.0) == 6
    assert stops_at(3, 3.0, 2.0, 2.5, 1.0, 1.0, 1.0) is None
    assert stops_at(1, 3.0, 3.0, last=2) is None  # the run ends at this step anyway


def test_a_non_finite_pass_does_not_end_the_run() -> None:
    assert stops_at(1, 3.0, None, None) is None
    assert stops_at(1, 3.0, None, 3.5) == 3


def test_the_first_reason_to_stop_is_kept() -> None:
    stop = Stop()
    stop.because("patience")
    stop.because("interrupted")
    assert (stop.is_set(), stop.reason) == (True, "patience")


def stuck(**more: Any) -> Config:
    """The parameters never move, so the first validation pass, after step 3, is the best."""
    changes: dict[str, Any] = {
        "steps": 100, "depth": {"lag": 1}, "optimizer": {"learning_rate": 1e-30},
        "evaluate": {"every": 3, "windows": 1, "patience": 2}, "checkpoint": {"every": None, "keep": 1},
    }  # fmt: skip
    return tiny(**{**changes, **more})


def test_a_run_in_threads_ends_with_the_pass_and_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    result = launch(stuck(), tmp_path)
    summary = result.summary
    assert (result.interrupted, summary["interrupted"], summary["ended"]) == (False, False, "patience")
    assert (summary["steps"], summary["best"]["step"]) == (9, 3)
    assert summary["best"]["bits_per_label"] == summary["valid"]["bits_per_label"]
    assert checkpoint.complete_steps(tmp_path) == [3, 9]


def test_patience_and_the_best_pass_survive_a_resume(tmp_path: Path) -> None:
    launch(stuck(steps=6), tmp_path / "first")
    assert summary_of(tmp_path / "first")["ended"] == "steps"
    on = {"evaluate": {"every": 3, "windows": 1, "patience": 3}, "resume": str(tmp_path / "first")}
    summary = launch(stuck(**on), tmp_path / "on").summary
    assert (summary["steps"], summary["ended"], summary["best"]["step"]) == (12, "patience", 3)
    assert checkpoint.complete_steps(tmp_path / "on") == [3, 12]  # the best one was copied
    for part in (tmp_path / "first", tmp_path / "on"):
        assert checkpoint.load(part, 3, 1)["stage"]["module"].keys()
    with pytest.raises(ResumeError, match=r"already seen 3 validation passes without a better one: set evaluate\.pat"):
        launch(stuck(**on | {"resume": str(tmp_path / "on")}), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_saving_with_every_pass_does_not_change_the_result(tmp_path: Path) -> None:
    for name, patience in (("with", 50), ("without", None)):
        config = tiny(depth={"lag": 1}, evaluate={"every": 3, "windows": 1, "patience": patience})
        assert launch(config, tmp_path / name).summary["ended"] == "steps"
    assert_same(parameters_of(tmp_path / "with", 2), parameters_of(tmp_path / "without", 2))
    assert checkpoint.complete_steps(tmp_path / "without") == [10]


def test_divergence_is_still_an_error(tmp_path: Path) -> None:
    huge = {"kind": "sgd", "learning_rate": 1e38, "clip": None}
    with pytest.raises(DivergedError):
        launch(stuck(optimizer=huge, evaluate={"every": 1, "windows": 1, "patience": 1}), tmp_path)


@pytest.mark.long
def test_processes_stop_a_few_steps_after_patience_ends(tmp_path: Path) -> None:
    """The first stage is notified over a pipe, so a few more steps are in flight."""
    result = launch(stuck(steps=10**6, transport={"kind": "grpc"}, launch={"mode": "processes"}), tmp_path)
    summary = result.summary
    assert (result.interrupted, summary["ended"], summary["best"]["step"]) == (False, "patience", 3)
    assert summary["steps"] >= 9
    assert checkpoint.complete_steps(tmp_path) == [3, summary["steps"]]
