"""dni/data/arrays/layout.py: which rows a window has."""

from __future__ import annotations

import numpy as np
import pytest

from dni.data.arrays.layout import Crops, Streams
from dni.errors import ConfigError, DataError


def test_streams_run_side_by_side_and_sequences_end() -> None:
    """20 rows in 2 streams of 10: two sequences of 4 rows each, for the label of the last row is 1 after it."""
    streams = Streams(20, 2, 2, 4)
    assert streams.windows_per_pass == 4
    assert [tuple(streams.place(n)) for n in range(5)] == [
        ([0, 10], 0, 2),
        ([2, 12], 2, 0),
        ([4, 14], 0, 2),
        ([6, 16], 2, 0),
        ([0, 10], 0, 2),
    ]


def test_without_a_sequence_a_pass_is_one() -> None:
    streams = Streams(21, 2, 3, ahead=4)
    assert streams.windows_per_pass == 2  # (10 - 4) // 3
    assert [tuple(streams.place(n)) for n in range(2)] == [([0, 10], 0, 3), ([3, 13], 3, 0)]


def test_crops_are_drawn_from_seed_and_number_alone() -> None:
    """Sequences of 4 rows in windows of 2: the offsets of sequence n are numpy's for the seed (7, n)."""
    crops = Crops(20, 3, 2, 4, seed=7)
    for n in (5, 0, 1, 4):
        drawn = np.random.default_rng((7, n // 2)).integers(16, size=3)  # offsets 0 to 15: the last label is row 19
        assert tuple(crops.place(n)) == ([int(d) + 2 * (n % 2) for d in drawn], 2 * (n % 2), 2 - 2 * (n % 2))
    assert crops.place(0) != Crops(20, 3, 2, 4, seed=8).place(0)


def test_every_offset_comes_up_and_none_is_beyond_the_end() -> None:
    crops = Crops(8, 4, 3, seed=0)
    assert {start for n in range(50) for start in crops.place(n).starts} == {0, 1, 2, 3, 4}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="2 streams of 5 and the labels after need 12 rows, it has 11"):
        Streams(11, 2, 5)
    with pytest.raises(DataError, match="a crop of 5 and the label after it need 6 rows, it has 5"):
        Crops(5, 2, 5, seed=0)
    with pytest.raises(ConfigError, match="sequence 7 is not a multiple of the window 5: use 5, say"):
        Streams(100, 2, 5, 7)
    with pytest.raises(ConfigError, match="batch 0 >= 1"):
        Crops(100, 0, 5, seed=0)
