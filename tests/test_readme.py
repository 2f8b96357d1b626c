"""README and the generated pages are correct: code runs and learns, and tables match the records."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks.headline import PICTURE, curves, is_current, record
from benchmarks.tables import DOCUMENTS, TABLES, filled
from workers.cli.settings_page import PAGE, page

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_results() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    for text in texts:
        assert filled(text) == text, "say make tables"
    assert all(any(f"<!-- {mark} -->" in text for text in texts) for mark in TABLES)


def test_headline_table_equals_the_records() -> None:
    """Compare one row with the records: rates at W = 8, and the seeds' figures on the test split."""
    (row,) = [line for line in README.splitlines() if line.startswith("| `depth=synthetic`")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    rates = record("links")["rows"]["synthetic, W=8"]["delays"]
    assert cells[1:3] == [f"{rates[delay]['updates_per_s']:.1f}" for delay in ("0", "50")]
    for cell, task in zip(cells[5:], ("text", "mnist, 3 cuts", "cifar"), strict=True):
        seeds = [record("depth")["rows"][f"{task}, critic, seed {seed}"]["test"] for seed in range(3)]
        assert abs(float(cell.split()[0]) - sum(seeds) / 3) < 0.006


def test_the_picture_shows_the_records_points(tmp_path: Path) -> None:
    assert is_current(), "say make tables"
    svg = PICTURE.read_text(encoding="utf-8")
    assert all(f">{name}</text>" in svg for name in curves(record("race")))
    other = tmp_path / "other.svg"
    other.write_text("<svg/>")
    assert not is_current(other)
    assert not is_current(tmp_path / "none.svg")


def test_settings_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "say make tables"


def test_the_library_example_is_short_runs_and_learns() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 15
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    loss = names["cuts"][-1].loss  # type: ignore[index]
    assert loss < 1.0  # guessing: log 10 = 2.3
