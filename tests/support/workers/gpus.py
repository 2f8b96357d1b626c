"""Marks of tests that need GPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def on_gpus(count: int) -> Callable[..., Any]:
    """Skip a test on machines with fewer GPUs."""
    available = torch.cuda.device_count()

    def mark(test: Callable[..., None]) -> Callable[..., None]:
        return pytest.mark.gpu(pytest.mark.skipif(available < count, reason=f"needs {count} GPUs")(test))

    return mark
