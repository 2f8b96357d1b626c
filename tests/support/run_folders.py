"""Write run folders by hand, for tests of the code that reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_run(
    folder: Path, seed: int = 0, valid: float = 2.0, config: str = "", depth: str = "backprop", **changes: Any
) -> Path:
    """Write a run folder with a summary, metrics and optionally a configuration; return the folder."""
    folder.mkdir(parents=True)
    summary = {
        "method": {"depth": depth, "time": "truncated"}, "experiment": "chars", "seed": seed, "stages": 2,
        "transport": "local", "launch": "threads", "steps": 20, "wall_s": 4.0, "tokens_per_s": 100.0,
        "train": {"loss": 1.0, "bits_per_label": 1.4}, "valid": {"loss": 1.4, "bits_per_label": valid},
        "stage": [{"index": 0, "busy": 0.4, "staleness_mean": 3.0}, {"index": 1, "busy": 0.6}],
        "restarts": 0, "interrupted": False, "versions": {}, "data": {"name": "tiny", "sha256": "ab"},
        "window": 4, "lag": None, "delay_ms": 0.0,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in metrics(valid)))
    if config:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "config.yaml").write_text(config)
    return folder


def metrics(last: float) -> list[dict[str, Any]]:
    """Return training records of 20 steps and two validation records, the last with `last` bits per label."""
    train = [{"kind": "train", "stage": 1, "step": s, "wall_s": s / 5, "loss": 4 - s / 10} for s in range(1, 21)]
    first = {"kind": "train", "stage": 0, "step": 10, "wall_s": 2.0, "loss": None}
    bits = [
        {"kind": "valid", "stage": 1, "step": s, "wall_s": s / 5, "bits_per_label": last + 20 - s} for s in (10, 20)
    ]
    return [*train, first, *bits]
