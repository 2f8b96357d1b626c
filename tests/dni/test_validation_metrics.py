"""dni/metrics/validation.py against NumPy, over several windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dni.errors import ConfigError
from dni.metrics.validation import MeanAbsoluteError, MetricSums, RootMeanSquaredError, TopK, refuse_twins
from dni.types import IGNORED


def test_the_share_among_the_k_largest() -> None:
    scores = torch.tensor([[[0.1, 0.9, 0.5], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0]]])
    labels = torch.tensor([[2, 2, IGNORED]])
    sums = MetricSums([TopK(k=1), TopK(k=2), TopK(k=9)])
    sums.add(scores, labels)
    assert sums.take() == {"top1": 0.0, "top2": 0.5, "top9": 1.0}
    assert sums.take() == {}


def test_means_are_over_all_windows_of_a_pass() -> None:
    """Windows of different sizes: not the mean of their means."""
    rng = np.random.default_rng(0)
    windows = [(rng.normal(size=(2, t, 3)), rng.normal(size=(2, t, 3))) for t in (1, 4)]
    sums = MetricSums([MeanAbsoluteError(), RootMeanSquaredError()])
    for _ in range(2):
        for output, labels in windows:
            sums.add(torch.from_numpy(output), torch.from_numpy(labels))
        errors = np.concatenate([(output - labels).ravel() for output, labels in windows])
        expected = {"mae": np.abs(errors).mean(), "rmse": math.sqrt(np.square(errors).mean())}
        assert sums.take() == pytest.approx(expected)
    assert sums.directions == {"mae": False, "rmse": False}


def test_nothing_to_count_is_no_number() -> None:
    sums = MetricSums([TopK(k=1)])
    sums.add(torch.zeros(1, 1, 2), torch.full((1, 1), IGNORED))
    assert math.isnan(sums.take()["top1"])


def test_two_of_one_name_are_refused() -> None:
    refuse_twins([TopK(k=1), TopK(k=2)])
    with pytest.raises(ConfigError, match="two are called top1: leave one out, or give one another `key`"):
        refuse_twins([TopK(k=1), TopK(k=1)])
