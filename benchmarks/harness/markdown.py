"""Tables as Markdown, and where their figures were made."""

from __future__ import annotations

from typing import Any


def source(results: dict[str, Any]) -> str:
    """Where figures were made."""
    at = results["environment"]
    return f"{at['machine']}; Python {at['python']}, torch {at['torch']}; `{at['command']}`."


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
