"""Records as stages send them, for tests of the code that displays and stores them."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

LN2 = 0.6931471805599453


def train(stage: int, step: int, **figures: Any) -> dict[str, Any]:
    base = {
        "kind": "train",
        "stage": stage,
        "step": step,
        "wall_s": step / 10,
        "steps_per_s": 10.0,
        "busy": 0.5,
    }
    shown = {
        "queue": 1,
        "in_flight": 2,
        "staleness": 2.5,
        "cosine": 0.7,
        "predictor_loss": 0.1,
        "time_cosine": None,
    }
    return base | shown | {"loss": None, "bits_per_label": None} | figures


def valid(step: int, loss: float) -> dict[str, Any]:
    return {
        "kind": "valid",
        "stage": 1,
        "step": step,
        "wall_s": 1.0,
        "loss": loss,
        "bits_per_label": loss / LN2,
    }


def probe(stage: int, step: int, **figures: Any) -> dict[str, Any]:
    base = {"kind": "probe", "stage": stage, "step": step, "wall_s": 2.0, "parameters": 0.75, "truncated": 0.5}
    return base | {"time_cosine": 0.25, "depth_cosine": None} | figures


def end(stage: int, **figures: Any) -> dict[str, Any]:
    base = {"kind": "end", "stage": stage, "step": 40, "wall_s": 4.0, "busy": 0.25, "steps_per_s": 10.0}
    means = {"staleness_mean": 2.5, "predictor_cosine": 0.5, "time_cosine": None, "peak_rss_mb": 100.0}
    return base | means | {"train_loss": None, "characters": 8000} | figures


def plain() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=200), text
