"""The report: groups, means and spreads worked out by hand, a page that loads nothing, damaged input."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from workers.report import curve, group_runs, main, spread, table_rows
from workers.summary import Run, find_runs


def write_run(
    folder: Path, seed: int = 0, valid: float = 2.0, config: str = "", depth: str = "backprop", **changes: Any
) -> Path:
    folder.mkdir(parents=True)
    summary = {
        "method": {"depth": depth, "time": "truncated"}, "experiment": "chars", "seed": seed, "stages": 2,
        "transport": "local", "launch": "threads", "steps": 20, "wall_s": 4.0, "tokens_per_s": 100.0,
        "train": {"loss": 1.0, "bits_per_char": 1.4}, "valid": {"loss": 1.4, "bits_per_char": valid},
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
    train = [{"kind": "train", "stage": 1, "step": s, "wall_s": s / 5, "loss": 4 - s / 10} for s in range(1, 21)]
    first = {"kind": "train", "stage": 0, "step": 10, "wall_s": 2.0, "loss": None}
    bits = [{"kind": "valid", "stage": 1, "step": s, "wall_s": s / 5, "bits_per_char": last + 20 - s} for s in (10, 20)]
    return [*train, first, *bits]


def refused(arguments: list[Path | str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-report: ")
    assert err.count("\n") == 1
    return err


def test_seeds_are_one_row_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, bits in enumerate((2.0, 3.0, 7.0)):
        write_run(tmp_path / f"a{seed}", seed, bits)
    write_run(tmp_path / "b", 0, 1.25, depth="synthetic")
    first, second = group_runs(find_runs([tmp_path]))
    assert (first.label, second.label) == ("backprop + truncated", "synthetic + truncated")
    # mean 12 / 3; squared deviations 4 + 1 + 9 = 14, sample variance 7
    mean, deviation, n = spread(first, ("valid", "bits_per_char"))
    assert (mean, n) == (4.0, 3)
    assert deviation == pytest.approx(2.6457513110645907)
    assert spread(second, ("valid", "bits_per_char")) == (1.25, None, 1)
    heading, row, other = table_rows([first, second])
    assert heading[:3] == ["method", "n", "valid (bits/char)"]
    assert row[:3] == ["backprop + truncated", "3", "4.000 ± 2.646"]
    assert other[:3] == ["synthetic + truncated", "1", "1.250"]
    assert row[heading.index("busy fraction")] == "0.500 ± 0.000"  # (0.4 + 0.6) / 2
    assert row[heading.index("staleness (steps)")] == "3.00 ± 0.00"  # the last stage has none
    assert "cosine depth" not in heading


def test_a_missing_value_shows_in_n(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, 2.0)
    write_run(tmp_path / "b", 1, valid=4.0)
    write_run(tmp_path / "c", 2, train={"loss": None, "bits_per_char": None})
    (group,) = group_runs(find_runs([tmp_path]))
    heading, row = table_rows([group])
    assert row[heading.index("n")] == "3"
    assert row[heading.index("train (bits/char)")] == "1.400 ± 0.000 (n=2)"


def test_settings_of_the_configuration_split_groups_too(tmp_path: Path) -> None:
    for seed, rate in ((0, 0.1), (1, 0.1), (0, 0.2)):
        write_run(tmp_path / f"{seed}-{rate}", seed, config=f"seed: {seed}\noptimizer:\n  learning_rate: {rate}\n")
    groups = group_runs(find_runs([tmp_path]))
    assert {(g.label, len(g.runs)) for g in groups} == {
        ("backprop + truncated, optimizer.learning_rate=0.1", 2),
        ("backprop + truncated, optimizer.learning_rate=0.2", 1),
    }
    (both,) = group_runs(find_runs([tmp_path]), by=["stages"])
    assert (both.label, len(both.runs)) == ("stages=2", 3)


def test_only_telling_settings_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path / "a", window=4, config="depth: {window: 4}")
    write_run(tmp_path / "b", window=8, config="depth: {window: 8}")
    assert [group.label for group in group_runs(find_runs([tmp_path]))] == [
        "backprop + truncated, window=4",
        "backprop + truncated, window=8",
    ]


def test_a_run_is_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "multirun" / "0")
    write_run(tmp_path / "multirun" / "1")
    assert [r.path.name for r in find_runs([tmp_path, run, run / ".." / "0"])] == ["0", "1"]


def test_a_resumed_run_is_one_curve() -> None:
    points = [
        (10, 5.0, 3.0),
        (20, 10.0, 2.0),
        (20, 1.0, 2.5),
        (30, 6.0, 1.0),
    ]  # the clock starts anew at step 20
    records = [{"kind": "train", "stage": 0, "step": s, "wall_s": w, "loss": v} for s, w, v in points]
    found = curve(Run(Path("x"), None, records), "train", "wall_s", "loss")
    assert found.to_numpy().tolist() == [[5.0, 3.0], [10.0, 2.5], [15.0, 1.0]]


def test_everything_is_written_and_the_page_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs" / "a", 0, 2.0, experiment="<b>$x$ | y")
    write_run(tmp_path / "runs" / "b", 1, 4.0, depth="synthetic", experiment="other")
    unfinished = tmp_path / "runs" / "c"
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").write_text(json.dumps(metrics(2.0)[6]) + '\n{"kind": "tr')
    out = tmp_path / "report"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--by", "method", "experiment"]) == 0
    pictures = ["train_seconds.png", "train_step.png", "utilisation.png", "valid.png"]
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "table.csv", "table.md", *pictures]
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in pictures)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 4
    assert not re.search(r"https?:|//[a-z]|<link|<script|@import|url\(", re.sub(r"base64,[^\"]+", "", page))
    assert "&lt;b&gt;$x$ | y" in page
    assert "<b>" not in page
    assert f"{unfinished}: no summary.json, last record at step 7" in page
    assert 'name="viewport"' in page

    shown = capsys.readouterr().out
    assert f"unfinished: {unfinished}" in shown
    assert "synthetic + truncated" in shown
    table = (out / "table.md").read_text(encoding="utf-8").splitlines()
    assert table[2].startswith("| backprop + truncated | <b>$x$ / y | 1 | 2.000 |")
    assert len({line.count("|") for line in table[:4]}) == 1
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["valid (bits/char) mean"] for row in rows] == ["2.0", "4.0"]


def test_unfinished_runs_alone_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert main([str(tmp_path)]) == 0
    assert "unfinished" in capsys.readouterr().out
    assert not list((tmp_path / "report").glob("*.png"))


def test_missing_and_empty_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refused([tmp_path / "nowhere"], capsys)
    assert "no run in it" in refused([tmp_path], capsys)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", b'{"method": {"depth"', "damaged"),
        ("summary.json", b"[1, 2]", "names no method"),
        ("summary.json", b'{"method": {"depth": "a", "time": "b"}, "stage": [3]}', "stage is not a list"),
        ("summary.json", b"\xff\xfe\x00", "damaged"),
        ("metrics.jsonl", b'{"stage": 0, "step": 1}\n{"stage": 0,\n', "line 2"),
        ("metrics.jsonl", b'{"loss": 0}\n', "not a record with a stage and a step"),
        ("metrics.jsonl", b'{"stage": 0, "step": 1, "loss": "low"}\n', "loss is not a number"),
        (".hydra/config.yaml", b"a: [1\nb: }", "damaged"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    run = write_run(tmp_path / "a", config="seed: 0")
    (run / name).write_bytes(content)
    error = refused([tmp_path], capsys)
    assert str(run / name) in error
    assert message in error


def test_an_unknown_key_and_an_unusable_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a")
    assert "--by colour: no run has it; choose from: data.name" in refused([run, "--by", "colour"], capsys)
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in refused([run, "--out", tmp_path / "file"], capsys)
