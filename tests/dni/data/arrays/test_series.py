"""dni/data/arrays/series.py: windows of vectors and the targets some rows later, against NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dni.data import Data, DataContext, Series
from dni.data.arrays.layout import Sampling
from dni.errors import DataError

ROWS = np.random.default_rng(0).normal(3.0, 5.0, size=(200, 3))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    lines = [",".join(map(repr, row.tolist())) for row in ROWS]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,c", *lines, ""]))
    return tmp_path / "rows.csv"


def opened(path: Path, **settings: Any) -> Data:
    return Series(**{"batch": 2, "path": str(path)} | settings).open(DataContext(window=4, seed=5))


def test_windows_hold_the_rows_and_labels_those_some_steps_later(path: Path) -> None:
    """160 rows to train on, in 2 streams of 80; 3 rows ahead."""
    data = opened(path, channels=["b", "a"], targets=["c"], horizon=3, normalise=False)
    assert (data.symbols, data.input_symbols, data.input_shape) == (1, 0, (2,))
    assert data.train.windows_per_pass == (80 - 3) // 4  # type: ignore[attr-defined]
    for n in range(3):
        window = data.train.next()
        rows = np.array([[stream * 80 + 4 * n + t for t in range(4)] for stream in range(2)])
        np.testing.assert_allclose(window.inputs, ROWS[rows][..., [1, 0]], rtol=1e-6)
        np.testing.assert_allclose(window.labels, ROWS[rows + 3][..., [2]], rtol=1e-6)
        assert (window.inputs.dtype, window.labels.dtype) == (torch.float32, torch.float32)
        assert window.reset.tolist() == 2 * [n == 0]


def test_parts_follow_each_other_and_scale_is_that_of_training(path: Path) -> None:
    """80 % to train on, 10 % to validate, 10 % to test; columns have mean 0 and variance 1 in the first part."""
    data = opened(path, batch=1)
    scaled = (ROWS - ROWS[:160].mean(axis=0)) / ROWS[:160].std(axis=0)
    assert data.test is not None
    for source, start in ((data.train, 0), (data.valid(), 160), (data.test(), 180)):
        window = source.next()
        np.testing.assert_allclose(window.inputs[0], scaled[start : start + 4], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(window.labels[0], scaled[start + 1 : start + 5], rtol=1e-4, atol=1e-6)
    assert opened(path, test_share=0.0).test is None


def test_a_column_that_never_changes_is_zero_and_not_divided(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", np.stack([np.full(50, 7.0), np.arange(50.0)], axis=1))
    window = opened(tmp_path / "flat.npy", batch=1).train.next()
    assert window.inputs[..., 0].tolist() == [4 * [0.0]]
    assert window.inputs.isfinite().all()


def test_random_crops_go_on_exactly_from_their_state(path: Path) -> None:
    train = opened(path, sampling=Sampling.random, normalise=False).train
    windows = [train.next() for _ in range(4)]
    for n, window in enumerate(windows):
        offsets = np.random.default_rng((5, n)).integers(156, size=2)  # the last label is row 159
        np.testing.assert_allclose(window.inputs, np.stack([ROWS[at : at + 4] for at in offsets]), rtol=1e-6)
        np.testing.assert_allclose(window.labels, np.stack([ROWS[at + 1 : at + 5] for at in offsets]), rtol=1e-6)
    again = opened(path, sampling=Sampling.random, normalise=False).train
    again.load_state_dict({"window": 3})
    assert torch.equal(again.next().labels, windows[3].labels)


def test_what_is_missing_or_too_short_is_refused(path: Path) -> None:
    with pytest.raises(DataError, match=r"has no column 'd': it has a, b, c"):
        opened(path, targets=["d"])
    with pytest.raises(DataError, match=r"too short: 30 streams of 4 and the labels after need 150 rows, it has 20"):
        opened(path, batch=30)
