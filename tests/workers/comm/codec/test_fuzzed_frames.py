"""Changed frames end in named errors, with no more memory than they have bytes. `make fuzz` tries more of them."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from types import ModuleType

import pytest

from tests.support.fuzzing.mutations import fuzz, inputs
from tests.support.fuzzing.target import LIMIT, consume, recorded, sealed
from workers.comm import codec, header
from workers.comm.codec import decode

_INPUTS = 5000


def test_changed_frames_end_in_named_errors_only() -> None:
    assert fuzz(seed=0, seconds=50, most=_INPUTS) == _INPUTS


def test_recorded_frames_are_valid_and_sealing_them_changes_nothing() -> None:
    for data in recorded():
        assert sealed(data) == data
        assert decode(data, limit=LIMIT).stage in (0, 1)
        consume(data)


def test_a_seed_has_the_same_inputs_again() -> None:
    first, again, other = ([*islice(inputs(seed), 100)] for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("module", "check"), [(codec, "_check_size"), (header, "_check_header")], ids=["sizes", "kinds"]
)
def test_a_check_that_is_missing_is_found(module: ModuleType, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, check, lambda *_: None)
    with pytest.raises(AssertionError, match=r"SEED=0, input \d+: "):
        fuzz(seed=0, seconds=50, most=_INPUTS)


@pytest.mark.long
def test_the_command_ends_after_so_many_inputs() -> None:
    command = [sys.executable, "-m", "tests.support.fuzzing", "--seed", "3", "--inputs", "500", "--minutes", "1"]
    assert subprocess.run(command, timeout=60).returncode == 0
