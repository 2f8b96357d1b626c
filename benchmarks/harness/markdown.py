"""Markdown tables, and the line that names the source of their figures."""

from __future__ import annotations

from typing import Any


def source(results: dict[str, Any]) -> str:
    """Return machine, versions and command of the figures."""
    at = results["environment"]
    return f"{at['machine']}; Python {at['python']}, torch {at['torch']}; `{at['command']}`."


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
