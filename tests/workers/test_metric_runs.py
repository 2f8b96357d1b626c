"""Metrics of a user: measured in processes and pipelines, recorded, shown, reported, measured again, and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dni.data.window import split_labels
from dni.errors import ConfigError
from dni.metrics.validation import TopK
from tests.plugin.hit_rate import Recall
from tests.support.commands import LOCAL, SMALL, settings
from tests.support.runs import tiny
from workers.cli.evaluate import evaluate, load_parts, read_settings
from workers.cli.evaluate import main as dni_evaluate
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.reporting.report import report
from workers.tracking.tensorboard import final_figures, scalars

OWN = "tests.plugin.hit_rate"
SPACE = {"_target_": f"{OWN}.Recall", "of": 0}
METRICS: list[Any] = [SPACE, {"_target_": "dni.metrics.validation.TopK", "k": 3}]
TEXT = "abba cab " * 100


def on_letters(folder: Path, **changes: Any) -> Config:
    """Of which the space is symbol 0."""
    (folder / "text.txt").write_text(TEXT)
    own: dict[str, Any] = {
        "metrics": METRICS,
        "depth": {"method": "backprop"},
        "evaluate": {"every": 4, "windows": None},
    }
    return tiny(data={"path": str(folder / "text.txt")}, **own | changes)


def by_hand(run_dir: Path) -> dict[str, float]:
    config, data = read_settings(run_dir)
    (model,) = load_parts(config, run_dir, 10)
    source, state, named, top, asked, total = data.valid(), model.initial_state(4), 0, 0, 0, 0
    for _ in range(data.valid_windows):
        window = source.next()
        if window.reset.any():
            state = model.initial_state(4)
        with torch.no_grad():
            scores, state = model(window.inputs, state)
        for row, label in zip(
            scores.flatten(0, 1), split_labels(window.inputs, window.labels)[0].flatten(), strict=True
        ):
            order = row.sort(descending=True).indices.tolist()
            asked, named = asked + int(label == 0), named + int(label == 0 and order[0] == 0)
            total, top = total + 1, top + int(label in order[:3])
    return {"recall_0": named / asked, "top3": top / total}


@pytest.mark.parametrize("depth", [{"method": "backprop"}, {"method": "gpipe", "microbatches": 2}])
@pytest.mark.long
def test_they_are_measured_recorded_reported_and_measured_again(
    tmp_path: Path, depth: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    run, processes = tmp_path / "run", {"transport": {"kind": "grpc"}, "launch": {"mode": "processes"}}
    summary = launch(on_letters(tmp_path, depth=depth, optimizer={"learning_rate": 0.05}, **processes), run).summary
    expected = by_hand(run)
    assert summary["valid"]["metrics"] == pytest.approx(expected, abs=1e-3)
    assert summary["higher_is_better"] == {"recall_0": True, "top3": True}
    assert evaluate(run, "valid", "last")["metrics"] == pytest.approx(expected, abs=1e-3)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    passes = [record for record in records if record["kind"] == "valid"]
    assert passes[-1]["metrics"] == summary["valid"]["metrics"]
    assert ("top3/validation", passes[-1]["metrics"]["top3"]) in [*scalars(passes[-1], 1)]
    assert final_figures(summary)["final/validation_top3"] == passes[-1]["metrics"]["top3"]
    assert f"recall_0 {passes[-1]['metrics']['recall_0']:.4g}" in capsys.readouterr().out
    assert dni_evaluate([str(run), "--step", "last"]) == 0
    assert f"top3 {evaluate(run, None, 'last')['metrics']['top3']:.6g}, " in capsys.readouterr().out
    report([str(run)], tmp_path / "report")
    assert "| valid recall_0 ↑ | valid top3 ↑ |" in (tmp_path / "report" / "table.md").read_text()


def test_a_run_without_metrics_records_none(tmp_path: Path) -> None:
    summary = launch(on_letters(tmp_path, metrics=[]), tmp_path / "run").summary
    assert "metrics" not in summary["valid"]
    assert "higher_is_better" not in summary
    assert "metrics" not in evaluate(tmp_path / "run", "valid")


def test_they_are_typed_recorded_and_typed_on_a_command_line() -> None:
    config = settings(*SMALL, *LOCAL, f"metrics=[{OWN}.Recall,{{_target_:dni.metrics.validation.TopK,k:2}}]")
    assert config.metrics == [Recall(of=0), TopK(k=2)]
    assert to_plain(config)["metrics"] == [SPACE, {"_target_": "dni.metrics.validation.TopK", "k": 2}]
    assert from_any(to_plain(config)) == config


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (["nowhere.Metric"], r"metrics\.0\._target_=nowhere\.Metric: nowhere cannot be imported"),
        ([f"{OWN}.Unsummed"], r"metrics\.0\._target_=.*Unsummed lacks sums, which every Metric has"),
        ([SPACE, {**SPACE, "off": 1}], r"metrics\.1\.off: Recall has no such setting \(did you mean `metrics\.1\.of`"),
        ([SPACE, SPACE], r"metrics: two are called recall_0: leave one out"),
        (
            [f"{OWN}.Wrong"],
            r"metrics: Wrong cannot measure outputs \[1, 2, 4\], labels \[1, 2\]: IndexError: .*line 33\)",
        ),
        (
            ["dni.metrics.validation.MeanAbsoluteError"],
            r"metrics: mae cannot measure outputs \[1, 2, 4\], labels \[1, 2\]: ValueError: labels \(1, 2\) do not",
        ),
    ],
)
def test_what_is_not_whole_is_refused_in_one_line(tmp_path: Path, metrics: list[Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        settle(on_letters(tmp_path, metrics=metrics), None)
    assert "\n" not in str(refused.value)
