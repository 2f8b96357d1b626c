"""The curves of the report: their points, and which figures a set of runs has."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.run_folders import metrics, write_run
from workers.reporting.aggregate import group_runs
from workers.reporting.curves import curve, smoothed
from workers.reporting.figures import _probes, _training, draw
from workers.tracking.run import Run, find_runs


def test_a_resumed_run_is_one_curve() -> None:
    points = [
        (10, 5.0, 3.0),
        (20, 10.0, 2.0),
        (20, 1.0, 2.5),
        (30, 6.0, 1.0),
    ]  # the clock restarts at step 20
    records = [{"kind": "train", "stage": 0, "step": s, "wall_s": w, "loss": v} for s, w, v in points]
    found = curve(Run(Path("x"), None, records), "train", "wall_s", "loss")
    assert found.to_numpy().tolist() == [[5.0, 3.0], [10.0, 2.5], [15.0, 1.0]]


def test_probes_are_a_curve_if_there_are_any(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    with (run / "metrics.jsonl").open("a") as file:
        for stage, step, parameters in ((0, 5, 0.5), (1, 5, 1.0), (0, 10, 0.25), (1, 10, None)):
            file.write(json.dumps({"kind": "probe", "stage": stage, "step": step, "parameters": parameters}) + "\n")
    groups = group_runs(find_runs([run]))
    (line,) = _probes(groups).lines
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([5, 10], [0.75, 0.25])
    assert "probe.png" in draw(groups, tmp_path)


def test_a_smoothed_curve_starts_and_ends_where_the_recorded_one_does(tmp_path: Path) -> None:
    assert smoothed([9.0, 3.0, 6.0, 0.0, 6.0, 6.0], 2) == [9.0, 6.0, 24 / 5, 21 / 5, 4.0, 6.0]
    axes = _training(group_runs(find_runs([write_run(tmp_path / "a")])), "step", "step")
    recorded, smooth = axes.lines
    for end in (0, -1):
        assert list(recorded.get_ydata())[end] == list(smooth.get_ydata())[end]
    assert axes.get_ylabel() == "training loss (nats per label)"


def test_only_figures_with_data_are_drawn(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    without_validation = [record for record in metrics(2.0) if record["kind"] == "train"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in without_validation))
    captions = draw(group_runs(find_runs([run])), tmp_path)
    assert list(captions) == ["train_step.png", "train_seconds.png", "utilisation.png"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == sorted(captions)
    assert {path.stem for path in tmp_path.glob("*.svg")} == {Path(name).stem for name in captions}
