"""What is cut into windows holds no more of a longer sequence; what is not, does."""

from __future__ import annotations

import pytest

from benchmarks.time.memory import measure


@pytest.mark.parametrize("method", ["truncated", "synthetic"])
@pytest.mark.long
def test_memory_does_not_grow_with_the_sequence(method: str) -> None:
    short, long = (measure(method, steps)["extra_mb"] for steps in (1000, 20_000))
    assert 1 < long < 1.05 * short


@pytest.mark.long
def test_whole_sequences_are_held_and_checkpointed_ones_less_so() -> None:
    held = {method: measure(method, 8000)["extra_mb"] for method in ("truncated", "checkpointed", "full")}
    assert held["full"] > 5 * held["truncated"]  # so the measure sees what is held
    assert held["checkpointed"] < held["full"] / 3
