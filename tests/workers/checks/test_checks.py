"""The checks pass on sound models, and name planted faults."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.runs import tiny
from workers.build.data import resolve
from workers.checks.alignment import misaligned
from workers.checks.gradients import check_gradients
from workers.checks.overfit import check_overfit
from workers.checks.split import check_split
from workers.checks.verdict import Verdict
from workers.cli.check import main

PLANTED = "tests.support.workers.planted"
BITS: dict[str, Any] = {"_target_": "tests.plugin.counting.Bits", "batch": 8, "window": 6, "sequence": 6}


def bits(model: str, cut: str | None = None, **changes: Any) -> Any:
    """Return settings for a model on vectors of bits, with plain backpropagation, in two stages, cut before `cut`."""
    points = [] if cut is None else [cut]
    method = {"depth": {"method": "backprop"}, "data": BITS, "stages": 2}
    return tiny(**method, model={"_target_": model, "split_points": points}, **changes)


def of(check: Any, config: Any, **options: Any) -> Verdict:
    found: Verdict = check(*resolve(config), **options)
    return found


@pytest.mark.parametrize("model", ["lstm", "mingru", pytest.param("transformer", marks=pytest.mark.long)])
def test_the_gradients_of_the_models_of_the_package_are_right(model: str) -> None:
    config = tiny(model={"kind": model, "units": 8}, stages=2)
    verdict = of(check_gradients, config)
    assert verdict.passed, verdict.reason
    assert "2 stages" in verdict.reason


def test_a_wrong_backward_pass_is_found_at_its_stage() -> None:
    """Cut before the faulty layer: it is in stage 1, whose parameters come after it, so its input shows it."""
    assert of(check_gradients, bits("tests.plugin.counting.Counter")).passed
    verdict = of(check_gradients, bits(f"{PLANTED}.WrongBackward", "squashed"))
    assert not verdict.passed
    assert verdict.reason.startswith("stage 1: the gradient of its input is not the derivative of the forward pass")


def test_a_random_forward_pass_cannot_be_checked() -> None:
    verdict = of(check_gradients, bits(f"{PLANTED}.RandomForward"))
    assert not verdict.passed
    assert "two forward passes of one input differ" in verdict.reason


def test_stages_equal_one_piece() -> None:
    """With carried state and dropout, in three stages."""
    verdict = of(check_split, tiny(stages=3, model={"layers": 3, "dropout": 0.3}))
    assert verdict.passed, verdict.reason
    assert verdict.reason.startswith("3 parts equal one piece")


def test_a_gradient_that_passes_beside_the_cut_is_found() -> None:
    """Stage 1 uses a weight of stage 0, whose gradient from there never arrives."""
    verdict = of(check_split, bits(f"{PLANTED}.Borrowed", "borrows"))
    assert not verdict.passed
    assert verdict.reason.startswith(
        "window 1: the gradient of second.weight (stage 0) differs from that of the unsplit"
    )
    assert of(check_split, bits("tests.plugin.counting.Counter")).passed


def test_a_value_that_passes_beside_the_cut_is_found() -> None:
    verdict = of(check_split, bits(f"{PLANTED}.SideChannel", "second"))
    assert not verdict.passed
    assert verdict.reason.startswith("window 1: it runs in one piece, and not in stages: KeyError: 'kept'")


@pytest.mark.long
def test_one_batch_is_learned_by_heart() -> None:
    verdict = of(check_overfit, tiny(model={"units": 32}, optimizer={"learning_rate": 0.02}))
    assert verdict.passed, verdict.reason


def test_a_dead_layer_learns_nothing_by_heart() -> None:
    verdict = of(check_overfit, bits(f"{PLANTED}.Dead"), steps=60)
    assert not verdict.passed
    assert verdict.reason.startswith("after 60 steps on one batch the loss is still 0.6")


def test_a_rate_that_is_too_large_diverges_or_does_not_learn() -> None:
    config = bits("tests.plugin.counting.Counter", optimizer={"kind": "sgd", "learning_rate": 1e30, "clip": None})
    verdict = of(check_overfit, config, steps=20)
    assert not verdict.passed


def test_labels_that_are_two_steps_ahead_are_found() -> None:
    verdict = of(check_overfit, tiny(data={"_target_": f"{PLANTED}.TwoAhead"}))
    assert verdict == Verdict(
        False, "the labels are the inputs 2 steps later, and the next symbol is 1 step later: they are off by 1"
    )


def test_labels_that_are_the_inputs_are_found_and_the_next_symbols_are_not() -> None:
    text = torch.randint(9, (4, 20), generator=torch.Generator().manual_seed(0))
    assert misaligned(text[:, :-1], text[:, 1:]) is None
    assert "the inputs themselves" in (misaligned(text, text) or "")


@pytest.mark.parametrize(("moved", "expected"), [(0, None), (1, "previous"), (-1, "next")])
def test_labels_of_the_neighbouring_example_are_found(moved: int, expected: str | None) -> None:
    """Four classes of noisy points: an example's label is that of the nearest other one."""
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(4, (200,), generator=generator)
    points = 5 * torch.eye(4)[classes] + torch.randn(200, 4, generator=generator)
    found = misaligned(points, classes.roll(moved))
    assert (found is None) if expected is None else f"the {expected} example" in (found or "")


def test_labels_without_any_relation_are_no_mistake() -> None:
    generator = torch.Generator().manual_seed(2)
    assert misaligned(torch.randn(300, 8, generator=generator), torch.randint(9, (300,), generator=generator)) is None


QUICK = ["model.units=16", "model.layers=1", "data.batch=4", "data.window=6", "data.sequence=18", "stages=2"]


@pytest.mark.long
def test_the_command_says_what_passed_and_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["all", *QUICK, "optimizer.learning_rate=0.03", "--steps", "400"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["overfit", "passed"], ["gradients", "passed"], ["split", "passed"], ["scales", "passed"],
    ]  # fmt: skip
    assert main(["overfit", *QUICK, "optimizer.learning_rate=1e-9", "--steps", "5"]) == 1
    assert capsys.readouterr().out.startswith("overfit: FAILED: after 5 steps on one batch the loss is still")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["split", "stages=1"], "stages=1 cuts nothing: set stages=2 or more"),
        (["overfit", "--steps", "0"], "--steps is 1 or more, and --below between 0 and 1"),
        (["speed"], "argument check: invalid choice: 'speed'"),
        (["split", "hydra.run.dir=x"], "hydra.run.dir=x: dni-check writes no run folder, leave it out"),
    ],
)
def test_what_cannot_be_checked_is_refused(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dni-check: {says}")
