"""Reports over several tasks and over copies of a run: shared tables, and runs that count once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.run_folders import write_run
from tests.support.runs import tiny
from workers.launch.launcher import launch
from workers.reporting.aggregate import group_runs, spread
from workers.reporting.notes import left_out, notes
from workers.reporting.report import main
from workers.reporting.table import table_rows
from workers.tracking.run import find_runs

BITS = ("valid", "bits_per_label")


def task(data: str, model: str, steps: int = 20) -> dict[str, Any]:
    config = f"steps: {steps}\nmodel: {{kind: {model}, units: 8}}\ndata: {{kind: {data}}}\n"
    return {"data": {"name": data, "sha256": None}, "config": config, "steps": steps}


@pytest.mark.long
def test_every_task_has_a_table_and_figures_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data, model, steps in (("text", "lstm", 20), ("ptb", "lstm", 20), ("mnist", "mlp", 20), ("mnist", "mlp", 40)):
        for seed in (0, 1):
            write_run(tmp_path / "runs" / f"{data}-{steps}-{seed}", seed, 2.0 + seed, **task(data, model, steps))
    out = tmp_path / "out"
    assert main([str(tmp_path / "runs"), "--out", str(out)]) == 0
    titles = ["mnist, mlp, 20 steps", "mnist, mlp, 40 steps", "ptb, lstm, 20 steps", "text, lstm, 20 steps"]
    table = (out / "table.md").read_text()
    assert [line.removeprefix("### ") for line in table.splitlines() if line.startswith("### ")] == titles
    with (out / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["n"], row["seeds"], row["valid (bits/label) mean"]) for row in rows] == 4 * [("2", "0 1", "2.5")]
    assert len(list(out.glob("[1-4]-valid.svg"))) == 4
    assert "bits per label" in (out / "1-valid.svg").read_text()
    assert "mnist, mlp, 20 steps" in (out / "1-valid.svg").read_text()
    assert "char" not in capsys.readouterr().out


def test_a_class_has_the_name_that_earlier_versions_gave_it(tmp_path: Path) -> None:
    """Runs of both versions share a table; a user's class, which may be missing, is shown by its name."""
    configs = {
        "before": "model: {kind: lstm, units: 8}\ndata: {kind: text}",
        "after": "model: {_target_: dni.models.language.Lstm, units: 8}\ndata: {_target_: dni.data.text.Text}",
        "own": "model: {_target_: nowhere.Mine, units: 8}\ndata: {_target_: dni.data.text.Text}",
    }
    for seed, (name, config) in enumerate(configs.items()):
        write_run(tmp_path / name, seed, config=config)
    groups = group_runs(find_runs([tmp_path]))
    assert {group.task: len(group.runs) for group in groups} == {"tiny, lstm, 20 steps": 2, "tiny, Mine, 20 steps": 1}


def test_by_seed_has_a_row_for_each(tmp_path: Path) -> None:
    for seed, bits in enumerate((2.0, 3.0)):
        write_run(tmp_path / str(seed), seed, bits)
        write_run(tmp_path / f"{seed}-synthetic", seed, bits + 1, depth="synthetic")
    groups = group_runs(find_runs([tmp_path]), ["seed"])
    assert [(group.label, spread(group, BITS)[0]) for group in groups] == [("seed=0", 2.5), ("seed=1", 3.5)]
    assert notes(groups[0]).startswith("differ: method backprop + truncated/synthetic + truncated")


def test_a_run_and_its_extension_count_once(tmp_path: Path) -> None:
    """Two seeds, the first of them three times: the original, its extension, and another extension of the same
    checkpoint."""
    write_run(tmp_path / "a", 0, 4.0, id="one", steps=20)
    write_run(tmp_path / "b", 0, 2.0, id="one", steps=30, sittings=2)
    write_run(tmp_path / "c", 0, 2.0, id="one", steps=30, sittings=2)
    write_run(tmp_path / "d", 1, 3.0, id="two", steps=30)
    short, whole = group_runs(find_runs([tmp_path]))
    assert (spread(short, BITS), short.seeds) == ((4.0, None, 1), "0")
    assert (spread(whole, BITS)[::2], whole.seeds) == ((2.5, 2), "0 1")
    (line,) = left_out(find_runs([tmp_path]), [short, whole])
    assert line == f"counted once: {tmp_path / 'c'} is the same run as another in its row"
    assert notes(whole) == "in 2 sittings"


def test_a_run_that_was_cut_short_is_marked_or_replaced_by_its_continuation(tmp_path: Path) -> None:
    config = "steps: 90"
    write_run(tmp_path / "whole", 0, 2.0, config=config, steps=90, id="one")
    cut = write_run(tmp_path / "cut", 1, 6.0, config=config, steps=40, id="two", interrupted=True, ended="interrupted")
    whole, short = sorted(group_runs(find_runs([tmp_path])), key=lambda group: group.runs[0].path.name, reverse=True)
    assert (spread(whole, BITS), spread(short, BITS)) == ((2.0, None, 1), (6.0, None, 1))
    assert short.label == "backprop + truncated (cut short)"
    assert table_rows([short])[1][-1] == "cut short at step 40"
    (both,) = group_runs(find_runs([tmp_path]), ["method"])
    assert notes(both) == "cut short at step 40"

    write_run(tmp_path / "on", 1, 3.0, config=config, steps=90, id="two")
    (group,) = group_runs(find_runs([tmp_path]))
    assert (spread(group, BITS)[::2], notes(group)) == ((2.5, 2), "")
    (line,) = left_out(find_runs([tmp_path]), [group])
    assert line == f"cut short at step 40: {cut}, continued in {tmp_path / 'on'}"


def test_a_run_that_has_diverged_is_in_no_mean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, bits in enumerate((2.0, 3.0)):
        write_run(tmp_path / str(seed), seed, bits, config="steps: 20")
    write_run(tmp_path / "wild", 2, 1e11, config="steps: 20", steps=12, ended="diverged")
    (group,) = group_runs(find_runs([tmp_path]))
    assert (spread(group, BITS)[::2], group.seeds) == ((2.5, 2), "0 1")
    assert notes(group) == "1 diverged, not in the means"
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert f"diverged: {tmp_path / 'wild'}, at step 12" in shown
    assert "e+" not in (tmp_path / "out" / "valid.svg").read_text()

    alone = group_runs(find_runs([tmp_path / "wild"]))
    assert table_rows(alone)[1] == ["backprop + truncated", "0", "", "1 diverged, not in the means"]
    assert main([str(tmp_path / "wild")]) == 0


def test_settings_that_differ_within_a_row_are_noted(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, machines=["x"])
    write_run(tmp_path / "b", 1, machines=["y"], window=8)
    (both,) = group_runs(find_runs([tmp_path]), ["method"])
    assert notes(both) == "on 2 machines; differ: window 4/8"
    write_run(tmp_path / "c", 2, machines=["x", "y"], sittings=3, repeated={"steps": 50, "s": 1.5})
    (group,) = group_runs(find_runs([tmp_path / "c"]))
    assert notes(group) == "in 3 sittings; 50 steps computed twice; resumed on another machine"


def test_real_runs_are_recognised(tmp_path: Path) -> None:
    """A run, its extension in another folder, and the same extension again."""
    config = {"depth": {"method": "backprop"}}
    launch(tiny(steps=5, **config), tmp_path / "a")
    for name in ("b", "c"):
        launch(tiny(steps=8, **config, resume=str(tmp_path / "a")), tmp_path / name)
    runs = find_runs([tmp_path])
    assert len({(run.summary or {})["id"] for run in runs}) == 1
    (group,) = [group for group in group_runs(runs) if "8 steps" in group.task]
    assert (len(group.runs), len(group.repeated)) == (1, 1)


def test_records_with_the_old_name_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", 0, 2.25)
    for name in ("summary.json", "metrics.jsonl"):
        old = (run / name).read_text().replace("bits_per_label", "bits_per_char")
        assert "bits_per_char" in old
        (run / name).write_text(old)
    (read,) = find_runs([run])
    assert (read.summary or {})["valid"]["bits_per_label"] == 2.25
    assert not any("bits_per_char" in json.dumps(record) for record in read.metrics)
    assert main([str(run)]) == 0
    assert "2.250" in capsys.readouterr().out
    assert (run / "report" / "valid.png").exists()


def test_a_title_has_the_settings_that_distinguish_its_task(tmp_path: Path) -> None:
    for units in (8, 16):
        config = f"model: {{kind: lstm, units: {units}}}"
        write_run(tmp_path / str(units), 0, config=config)
    write_run(tmp_path / "other", 0, config="model: {kind: gru, units: 8}")
    found = {group.task for group in group_runs(find_runs([tmp_path]))}
    assert found == {
        "tiny, lstm, 20 steps, model.units=8",
        "tiny, lstm, 20 steps, model.units=16",
        "tiny, gru, 20 steps",
    }
