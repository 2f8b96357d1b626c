"""Convert text to the symbols of a run and back. Symbols are characters, or tokens of the run's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dni.data.tokenizer import Tokenizer
from dni.errors import ConfigError

#: Replaces the bytes of an unfinished character in decoded text.
UNFINISHED = "\ufffd"


class Spelling(Protocol):
    """Converts text to symbols and back."""

    def encode(self, text: str) -> list[int]:
        """Return the symbols of a prompt. Raise ConfigError if it is empty or has an unknown character."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of symbols."""


@dataclass(frozen=True)
class Characters:
    """Each symbol is a character."""

    characters: tuple[str, ...]  #: by symbol

    def encode(self, text: str) -> list[int]:
        known = {character: symbol for symbol, character in enumerate(self.characters)}
        for place, character in enumerate(text, 1):
            if character not in known:
                raise ConfigError(
                    f"--prompt: its character {place}, {character!r} (U+{ord(character):04X}), is not among the "
                    f"{len(known)} characters of the text that the run was trained on: leave it out"
                )
        if not text:
            raise ConfigError("--prompt is empty: give at least one character to start the text")
        return [known[character] for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[symbol] for symbol in ids)


@dataclass(frozen=True)
class Tokens:
    """Each symbol is a token."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        found = self.tokenizer.encode(text)
        if not found:
            raise ConfigError(f"--prompt {text!r} has no token of the run's tokenizer: give another prompt")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)


def spelling_of(symbols: tuple[str, ...] | Tokenizer) -> Spelling:
    """Return the spelling of a run's characters or tokenizer."""
    return Tokens(symbols) if isinstance(symbols, Tokenizer) else Characters(symbols)


def held_back(text: str) -> str:
    """Return the text without unfinished characters at its end."""
    return text.rstrip(UNFINISHED)
