"""The rule for divergence, with losses worked out by hand."""

from __future__ import annotations

import math

import pytest

from workers.runtime.divergence import STEPS, DivergenceWatch


def watch_of(*losses: float, guessing: float = 0.0) -> DivergenceWatch:
    watch = DivergenceWatch(guessing)
    for step, loss in enumerate(losses, 1):
        watch.add(step, loss)
    return watch


@pytest.mark.parametrize(
    ("losses", "guessing", "diverged"),
    [
        ([4.0] + 99 * [41.0], 4.0, True),  # mean (4 + 99 x 41) / 100 = 40.63, above 40
        ([4.0] + 99 * [40.3], 4.0, False),  # mean 39.94
        ([4.0] + 100 * [39.9], 4.0, False),
        ([4.0] + 98 * [5.0] + [1e6], 4.0, True),  # mean above 10^4, and the newest is absurd
        ([4.0] + 98 * [1e6] + [5.0], 4.0, False),  # it has recovered
        ([4.0] + 50 * [1e6], 4.0, False),  # too early to tell
        (100 * [0.9], math.log(2), False),
        ([1e-6] + 120 * [0.9], math.log(2), False),  # a first loss near zero, as of a trained model
        ([50.0] + 120 * [400.0], math.log(10), False),  # a first loss far above guessing, as of large weights
        ([50.0] + 120 * [501.0], math.log(10), True),
    ],
)
def test_divergence_needs_ten_times_the_first_loss_and_ten_times_guessing(
    losses: list[float], guessing: float, diverged: bool
) -> None:
    assert watch_of(*losses, guessing=guessing).diverged() is diverged


def test_a_growing_curriculum_has_not_diverged() -> None:
    """Losses of copying in nats per label: log 2 (chance) after each growth, and 0.1 once solved."""
    losses = [loss for _ in range(20) for loss in (0.8, 0.69, 0.4, 0.2, 0.1, 0.05)]
    assert not any(watch_of(*losses[:n], guessing=math.log(3)).diverged(at_the_end=True) for n in range(1, len(losses)))


def test_a_short_run_is_tested_at_its_end() -> None:
    watch = watch_of(4.6, 1e9, 2e9, guessing=4.6)
    assert (watch.diverged(), watch.diverged(at_the_end=True)) == (False, True)
    assert not watch_of(4.6, 1e9, 5.0, guessing=4.6).diverged(at_the_end=True)
    assert not DivergenceWatch().diverged(at_the_end=True)


def test_parameters_were_good_while_the_next_loss_was_not_absurd() -> None:
    """The loss of step 4 is that of the parameters after step 3."""
    watch = watch_of(4.6, 4.5, 4.4, 4.3, guessing=4.6)
    assert (watch.good, watch.absurd) == (3, False)
    watch.add(5, 1e9)
    assert (watch.good, watch.absurd) == (3, True)


def test_the_watch_continues_after_a_resume() -> None:
    losses = [4.0] + 120 * [1e6]
    before, after = watch_of(*losses[:60], guessing=4.0), DivergenceWatch(4.0)
    after.load_state_dict(before.state_dict())
    found = []
    for step, loss in enumerate(losses[60:], 61):
        after.add(step, loss)
        found.append(after.diverged())
    assert found.index(True) + 61 == STEPS
    assert f"the last {STEPS} steps" in after.verdict()
