"""The report: its table, its self-contained page, damaged input."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.run_folders import metrics, write_run
from workers.reporting import page as page_module
from workers.reporting.aggregate import group_runs
from workers.reporting.report import _fitting, main
from workers.reporting.table import table_rows
from workers.tracking.run import find_runs


def refused(arguments: list[Path | str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dni-report: ")
    assert err.count("\n") == 1
    return err


def test_a_group_is_a_row_with_mean_and_deviation(tmp_path: Path) -> None:
    for seed, bits in enumerate((2.0, 3.0, 7.0)):
        write_run(tmp_path / f"a{seed}", seed, bits)
    write_run(tmp_path / "b", 0, 1.25, depth="synthetic")
    heading, row, other = table_rows(group_runs(find_runs([tmp_path])))
    assert heading[:3] == ["method", "n", "valid (bits/label)"]
    assert row[:3] == ["backprop + truncated", "3", "4.000 ± 2.646"]  # sample variance (4 + 1 + 9) / 2
    assert other[:3] == ["synthetic + truncated", "1", "1.250"]
    assert row[heading.index("busy fraction")] == "0.500 ± 0.000"  # (0.4 + 0.6) / 2
    assert row[heading.index("staleness (steps)")] == "3.00 ± 0.00"  # the last stage has none
    assert "cosine depth" not in heading


def test_a_missing_value_shows_in_n(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, 2.0)
    write_run(tmp_path / "b", 1, valid=4.0)
    write_run(tmp_path / "c", 2, train={"loss": None, "bits_per_label": None})
    (group,) = group_runs(find_runs([tmp_path]))
    heading, row = table_rows([group])
    assert row[heading.index("n")] == "3"
    assert row[heading.index("train (bits/label)")] == "1.400 ± 0.000 (n=2)"


def test_a_run_is_read_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "multirun" / "0")
    write_run(tmp_path / "multirun" / "1")
    assert [r.path.name for r in find_runs([tmp_path, run, run / ".." / "0"])] == ["0", "1"]


def test_all_files_are_written_and_the_page_is_self_contained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "library", lambda: "/* the library */")
    write_run(tmp_path / "runs" / "a", 0, 2.0, experiment="<b>$x$ | y")
    write_run(tmp_path / "runs" / "b", 1, 4.0, depth="synthetic", experiment="other")
    unfinished = tmp_path / "runs" / "c"
    unfinished.mkdir()
    (unfinished / "metrics.jsonl").write_text(json.dumps(metrics(2.0)[6]) + '\n{"kind": "tr')
    out = tmp_path / "report"
    assert main([str(tmp_path / "runs"), "--out", str(out), "--by", "method", "experiment"]) == 0
    names = ["train_seconds", "train_step", "utilisation", "valid"]
    tables = [f"table.{kind}" for kind in ("csv", "md", "tex")]
    pictures = [f"{name}.{kind}" for name in names for kind in ("png", "svg")]
    assert sorted(p.name for p in out.iterdir()) == ["report.html", *tables, *pictures]
    assert "\\toprule" in (out / "table.tex").read_text()
    assert all((out / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in names)
    assert all("<svg" in (out / f"{name}.svg").read_text() for name in names)

    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count('<div class="chart">') == 3  # validation, training, time not spent waiting
    assert "<script>/* the library */</script>" in page
    assert not re.search(r"https?:|//[a-z]|<link|<script src|@import|url\(", page)
    assert "&lt;b&gt;$x$ | y" in page
    assert "<b>" not in page
    assert f"{unfinished}: no summary.json, last record at step 7" in page
    assert 'name="viewport"' in page

    shown = capsys.readouterr().out
    assert f"unfinished: {unfinished}" in shown
    assert "synthetic + truncated" in shown
    table = (out / "table.md").read_text(encoding="utf-8").splitlines()
    assert table[0] == "### tiny, 20 steps"
    assert table[4].startswith("| backprop + truncated | <b>$x$ / y | 1 | 2.000 |")
    assert len({line.count("|") for line in table[2:6]}) == 1
    with (out / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["valid (bits/label) mean"] for row in rows] == ["2.0", "4.0"]


def test_unfinished_runs_alone_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "metrics.jsonl").write_text("")
    assert main([str(tmp_path)]) == 0
    assert "unfinished" in capsys.readouterr().out
    assert not list((tmp_path / "report").glob("*.png"))


def test_missing_and_empty_folders_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no such folder" in refused([tmp_path / "nowhere"], capsys)
    assert "no run here" in refused([tmp_path], capsys)
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


def test_a_table_that_is_too_wide_for_the_terminal_is_turned() -> None:
    rows = [["method", *(f"figure{n}" for n in range(20))], ["backprop", *map(str, range(20))]]
    for width, turned in ((400, False), (60, True)):
        console = Console(width=width, file=io.StringIO())
        console.print(_fitting("title", rows, console))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert max(map(len, lines)) <= width
        assert any("figure19" in line and "19 " in line.split("figure19")[1] for line in lines) == turned
