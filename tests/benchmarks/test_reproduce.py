"""`make reproduce`: which figures count as moved, and that no benchmark is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import reproduce

ROOT = Path(__file__).resolve().parents[2]


def test_every_benchmark_of_the_makefile_is_run() -> None:
    modules = re.findall(r"-m (benchmarks\.\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert set(modules) - {"benchmarks.tables", "benchmarks.reproduce", "benchmarks.time_left"} == {
        *reproduce.BENCHMARKS
    }


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1.0, 2.0, 3.0], [5.0, 6.0, 7.0], False),  # 4 apart, spreads 1 and 1
        ([1.0, 2.0, 3.0], [5.5, 6.5, 7.5], True),
        ([2.0], [2.09], False),
        ([2.0], [1.85], True),
    ],
)
def test_a_figure_has_moved_if_it_left_both_spreads(before: list[float], after: list[float], expected: bool) -> None:
    assert reproduce.moved(before, after) is expected


def test_moved_figures_and_missing_records_are_listed(tmp_path: Path) -> None:
    def record(folder: str, name: str, values: list[float]) -> None:
        rows = {f"a, seed {n}": {"test": value, "wall_s": 9.0 * n} for n, value in enumerate(values)}
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(json.dumps({"rows": rows}))

    record("old", "same", [1.0, 1.1])
    record("new", "same", [1.1, 1.0])
    record("old", "other", [1.0, 1.1])
    record("new", "other", [2.0, 2.1])
    record("old", "gone", [1.0])
    (tmp_path / "old" / "times.json").write_text(json.dumps({"rows": [{"ms": 1.0}]}))
    (tmp_path / "new" / "times.json").write_text(json.dumps({"rows": [{"ms": 7.0}]}))
    assert reproduce.differences(tmp_path / "old", tmp_path / "new") == [
        ["gone", "", "", "", "missing"],
        ["other", "a", "test", "1.05", "2.05"],
    ]


def test_the_copy_has_no_records_and_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "OUT", tmp_path)
    tree = reproduce.copied()
    assert [path.name for path in (tree / "benchmarks" / "results").iterdir()] == ["demo.json"]
    assert (tree / "Makefile").read_bytes() == (ROOT / "Makefile").read_bytes()
    (tree / "benchmarks" / "results" / "mine.json").write_text("{}")
    assert (reproduce.copied() / "benchmarks" / "results" / "mine.json").is_file()


def test_finished_benchmarks_are_skipped_and_failed_ones_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "OUT", tmp_path)
    (tmp_path / "tree").mkdir()
    program = tmp_path / "tree" / "work.py"
    program.write_text("import sys; open('ran', 'a').write('x'); sys.exit(3)")
    assert not reproduce.finished("work", tmp_path / "tree")
    program.write_text("open('ran', 'a').write('y')")
    assert all(reproduce.finished("work", tmp_path / "tree") for _ in range(2))
    assert (tmp_path / "tree" / "ran").read_text() == "xy"
