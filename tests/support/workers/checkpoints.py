"""A state with tensors and values of every kind, to save in checkpoints and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from workers.storage import checkpoint

TREE: dict[str, Any] = {
    "module": {"layer.weight": torch.arange(6.0).view(2, 3), "layer.bias": torch.tensor([1.5, -2.0]).bfloat16()},
    "optimizer": {"state": {0: {"step": torch.tensor(7.0), "seen": torch.tensor([True, False])}, 12: {}}, "lr": 2e-3},
    "state": [torch.zeros(0, 3), torch.tensor(5), torch.arange(6).view(2, 3).t()],
    "random": {"cpu": torch.arange(4, dtype=torch.uint8)},
    "pairs": [[3, torch.tensor([0.25])], [4, None]],
    "updates": 41, "ready": False, "name": "a/b", "nothing": None, "empty": [],
}  # fmt: skip


def same(a: Any, b: Any) -> bool:
    """Return whether two states have the same structure and types and equal tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def save(run_dir: Path, step: int, *stages: int, of: int = 2) -> None:
    for stage in stages:
        checkpoint.save(run_dir, stage, of, step, TREE)
