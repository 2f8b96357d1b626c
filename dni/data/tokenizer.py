"""A `tokenizer.json` of the `tokenizers` library, which is optional: text as tokens, and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dni.errors import ConfigError, DataError


class Tokenizer:
    """Text to token ids and back, without special tokens, truncation or padding.

    Args:
        content: what the tokenizer.json holds.
        where: its name, for messages.

    Raises ConfigError, which says what to install, where the library is missing, DataError for what it cannot read.
    """

    def __init__(self, content: str, where: str) -> None:
        try:
            import tokenizers
        except ImportError:
            raise ConfigError(
                f"{where} needs the tokenizers library, which is not installed: pip install 'dni[tokenizers]' (or pip "
                "install tokenizers)"
            ) from None
        self.content = content
        try:
            self._library: Any = tokenizers.Tokenizer.from_str(content)
        except Exception as error:  # the library raises plain exceptions
            said = " ".join(str(error).split())
            raise DataError(f"{where} is no tokenizer.json of the tokenizers library: {said}") from None
        self._library.no_truncation()
        self._library.no_padding()
        self._ids: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        if not self._ids:
            raise DataError(f"{where} has no tokens: train it first")

    @property
    def size(self) -> int:
        """Ids are below it."""
        return max(self._ids.values()) + 1

    @property
    def tokens(self) -> tuple[str, ...]:
        """By id; empty where an id is of no token."""
        named = {number: token for token, number in self._ids.items()}
        return tuple(named.get(number, "") for number in range(self.size))

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no whole character yet are U+FFFD."""
        return str(self._library.decode(list(ids), skip_special_tokens=False))


def read_tokenizer(path: str) -> Tokenizer:
    """Raises DataError if the file cannot be read, else as `Tokenizer`."""
    file = Path(path).expanduser()
    try:
        return Tokenizer(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; give data.tokenizer a tokenizer.json") from None
    except UnicodeDecodeError:
        raise DataError(f"{file} is no tokenizer.json: it is not UTF-8 text") from None
