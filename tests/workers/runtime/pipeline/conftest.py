"""Processes that serve several pipelined runs, and runs in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.ranks import Ranks


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks(4) as started:
        yield started


@pytest.fixture
def double() -> Iterator[None]:
    """Compute in double precision, so that rounding does not hide a difference."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
