"""README tells the truth: its code runs and learns, its tables are those of the results."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from benchmarks.tables import DOCUMENTS, TABLES, filled

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_tables_are_made_from_the_results() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    for text in texts:
        assert filled(text) == text, "say make tables"
    assert all(any(f"<!-- {mark} -->" in text for text in texts) for mark in TABLES)


def test_the_library_example_is_short_runs_and_learns() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 15
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(code, names)
    loss = names["cuts"][-1].loss  # type: ignore[index]
    assert loss < 1.0  # guessing: log 10 = 2.3
