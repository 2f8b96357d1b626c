"""examples/series: a recurrent model with regression."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.examples import Import, run
from workers.cli.evaluate import evaluate
from workers.launch.launcher import launch


@pytest.mark.parametrize("time", ["truncated", pytest.param("synthetic", marks=pytest.mark.long)])
@pytest.mark.long
def test_the_forecast_of_a_series_beats_the_naive_one(time: str, import_example: Import, tmp_path: Path) -> None:
    forecast = import_example("series", "forecast")
    naive = forecast.write(tmp_path / "series.csv", rows=3000)
    file = {"kind": "series", "path": str(tmp_path / "series.csv"), "horizon": 12}
    # without a lag, the figure depends on how late targets are: 0.69 to 0.84 of the naive one
    config = run(
        {"_target_": "forecast.Forecaster", "units": 16},
        data={**file, "batch": 4, "window": 8, "sequence": None},
        loss={"_target_": "dni.loss_function.SquaredError"},
        metrics=["dni.metrics.validation.RootMeanSquaredError"],
        depth={"lag": 0}, time={"method": time}, predictor={"time": {"kind": "mlp", "context": "none"}},
        stages=2, steps=250, optimizer={"learning_rate": 1e-2}, evaluate={"every": None, "windows": None},
    )  # fmt: skip
    launch(config, tmp_path / "run")
    assert evaluate(tmp_path / "run")["metrics"]["rmse"] < 0.8 * naive
