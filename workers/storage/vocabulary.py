"""`vocabulary.json`: the characters of a run's training text, so that its model can be used without the text."""

from __future__ import annotations

import json
from pathlib import Path

from dni.errors import ConfigError

VOCABULARY = "vocabulary.json"


def save(run_dir: Path, characters: tuple[str, ...] | None) -> None:
    """Write the characters in the order of the model's symbols; None (data that is no text) writes nothing."""
    if characters is not None:
        (run_dir / VOCABULARY).write_text(json.dumps({"characters": "".join(characters)}) + "\n", encoding="utf-8")


def load(run_dir: Path, symbols: int | None) -> tuple[str, ...] | None:
    """Return the characters of a run whose model has `symbols` symbols; None if the run has no such file.

    Raises ConfigError if the file is damaged.
    """
    path = run_dir / VOCABULARY
    if not path.is_file():
        return None
    try:
        characters = json.loads(path.read_bytes())["characters"]
        count = len(set(characters))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: damaged: {error!r}; remove it to read the characters from the run's text"
        ) from error
    if not isinstance(characters, str) or not count == len(characters) == symbols:
        raise ConfigError(f"{path}: {count} characters, but the model has {symbols} symbols: it belongs to another run")
    return tuple(characters)
