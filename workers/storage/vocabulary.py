"""`vocabulary.json`: the symbols of a run's training text, so that its model can be used without the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dni.data.tokenizer import Tokenizer
from dni.errors import ConfigError

VOCABULARY = "vocabulary.json"


def save(run_dir: Path, characters: tuple[str, ...] | None, tokenizer: str | None = None) -> None:
    """Write the characters in the order of the model's symbols, or the tokenizer; for data that is no text both are
    None, and nothing is written."""
    held = {"characters": "".join(characters)} if characters is not None else {"tokenizer": tokenizer}
    if characters is not None or tokenizer is not None:
        (run_dir / VOCABULARY).write_text(json.dumps(held) + "\n", encoding="utf-8")


def load(run_dir: Path, symbols: int | None) -> tuple[str, ...] | Tokenizer | None:
    """Return the characters or the tokenizer of a run whose model has `symbols` symbols; None if the run has no such
    file.

    Raises ConfigError if the file is damaged.
    """
    path = run_dir / VOCABULARY
    if not path.is_file():
        return None
    try:
        held = json.loads(path.read_bytes())
        found: Any = held["tokenizer"] if "tokenizer" in held else held["characters"]
        count = len(set(found))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: damaged: {error!r}; remove it to read the characters from the run's text"
        ) from error
    if "tokenizer" in held:
        return _tokenizer(found, path, symbols)
    if not isinstance(found, str) or not count == len(found) == symbols:
        raise ConfigError(f"{path}: {count} characters, but the model has {symbols} symbols: it belongs to another run")
    return tuple(found)


def _tokenizer(content: Any, path: Path, symbols: int | None) -> Tokenizer:
    found = Tokenizer(str(content), str(path))
    if found.size != symbols:
        raise ConfigError(
            f"{path}: {found.size} tokens, but the model has {symbols} symbols: it belongs to another run"
        )
    return found
