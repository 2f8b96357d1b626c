"""Convert text to tokens and back with a `tokenizer.json` of the optional `tokenizers` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dni.errors import ConfigError, DataError


class Tokenizer:
    """Converts text to token ids and back, without special tokens, truncation or padding.

    Args:
        content: content of the tokenizer.json.
        where: its name in messages.

    Raise ConfigError, with the command that installs it, if the library is missing; DataError for unreadable content.
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
        """V; ids are smaller."""
        return max(self._ids.values()) + 1

    @property
    def tokens(self) -> tuple[str, ...]:
        """The tokens by id; empty for an unused id."""
        named = {number: token for token, number in self._ids.items()}
        return tuple(named.get(number, "") for number in range(self.size))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes of an unfinished character become U+FFFD."""
        return str(self._library.decode(list(ids), skip_special_tokens=False))


def read_tokenizer(path: str) -> Tokenizer:
    """Read a tokenizer.json. Raise DataError if the file cannot be read, and the errors of `Tokenizer`."""
    file = Path(path).expanduser()
    try:
        return Tokenizer(file.read_text(encoding="utf-8"), str(file))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}; give data.tokenizer a tokenizer.json") from None
    except UnicodeDecodeError:
        raise DataError(f"{file} is no tokenizer.json: it is not UTF-8 text") from None
