"""Memory stays constant in the length of a sequence if time is cut into windows, and grows otherwise."""

from __future__ import annotations

import pytest

from benchmarks.time.memory import measure


@pytest.mark.parametrize("method", ["truncated", "synthetic"])
@pytest.mark.long
def test_memory_does_not_grow_with_the_sequence(method: str) -> None:
    short, long = (measure(method, steps)["extra_mb"] for steps in (1000, 20_000))
    assert 1 < long < 1.05 * short


@pytest.mark.long
def test_full_holds_whole_sequences_and_checkpointed_less() -> None:
    held = {method: measure(method, 8000)["extra_mb"] for method in ("truncated", "checkpointed", "full")}
    assert held["full"] > 5 * held["truncated"]  # the measurement sees activations
    assert held["checkpointed"] < held["full"] / 3
