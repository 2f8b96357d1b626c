"""Compare states of workers bit for bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def same(a: Any, b: Any, at: str = "") -> None:
    """Assert that two nested states are equal bit for bit, except for the journal, which has times."""
    if isinstance(a, Tensor):
        assert torch.equal(a, b), at
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a.keys() - {"journal"}:
            same(a[key], b[key], f"{at}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), at
        for n, pair in enumerate(zip(a, b, strict=True)):
            same(*pair, f"{at}/{n}")
    else:
        assert a == b, at
