"""The points of a run's curves, against steps, samples, seconds or bytes sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from workers.reporting.tasks import settings_of
from workers.tracking.run import Run


class Axis(NamedTuple):
    """What a curve is drawn against."""

    key: str  #: a column of `points`
    file: str  #: in names of figures
    label: str


AXES = (
    Axis("step", "step", "step"),
    Axis("samples", "samples", "samples (windows of all streams)"),
    Axis("wall_s", "seconds", "time of all sittings (s)"),
    Axis("sent_mb", "bytes", "sent by all stages (MB)"),
)


def points(run: Run, kind: str, y: str) -> pd.DataFrame:
    """Return columns step, samples, wall_s, sent_mb and y of the run's records of this kind that have y, by step.

    The last record of a repeated step counts. `sent_mb` is nan where the stages did not record it.
    """
    records = [r for r in run.metrics if r.get("kind") == kind and r.get(y) is not None]
    frame = pd.DataFrame(records, columns=["step", "wall_s", y]).astype(float)
    back = frame["wall_s"].diff().clip(upper=0).fillna(0).cumsum()
    frame["wall_s"] -= back  # a resumed run's clock may start at 0: continue from the sitting before
    frame = frame.drop_duplicates("step", keep="last").sort_values("step").reset_index(drop=True)
    batch = settings_of(run).get("data.batch", "")
    frame["samples"] = frame["step"] * (float(batch) if batch.isdecimal() else np.nan)
    frame["sent_mb"] = _sent(run, frame["step"])
    chosen: pd.DataFrame = frame[["step", "samples", "wall_s", "sent_mb", y]]
    return chosen


def curve(run: Run, kind: str, x: str, y: str) -> pd.DataFrame:
    """Return columns x, y of `points`, where both are there."""
    chosen: pd.DataFrame = points(run, kind, y)[[x, y]].dropna().reset_index(drop=True)
    return chosen


def _sent(run: Run, steps: pd.Series[float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return the megabytes that all stages had sent by these steps, interpolated between the training records."""
    records = [r for r in run.metrics if r.get("kind") == "train" and r.get("sent_bytes") is not None]
    table = pd.DataFrame(records, columns=["step", "stage", "sent_bytes"]).drop_duplicates(
        ["step", "stage"], keep="last"
    )
    wide = table.pivot(index="step", columns="stage", values="sent_bytes").dropna()
    if wide.empty:
        return np.full(len(steps), np.nan)
    total = wide.sum(axis=1).astype(float) / 1e6
    found: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.interp(
        steps, [0.0, *total.index.astype(float)], [0.0, *total], right=np.nan
    )
    return found


def smoothed(values: Sequence[float], half: int) -> list[float]:
    """Return the mean of each value and its `half` neighbours on either side.

    Near the ends the window shrinks on both sides, so the first and the last value stay as recorded.
    """
    at, sums = np.arange(len(values)), np.concatenate([[0.0], np.cumsum(values)])
    reach = np.minimum(half, np.minimum(at, at[::-1]))
    means: list[float] = ((sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1)).tolist()
    return means
