"""Text as the symbols of a run, and back: characters, or the tokens of its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dni.data.tokenizer import Tokenizer
from dni.errors import ConfigError

#: What stands for bytes that are no whole character yet.
UNFINISHED = "\ufffd"


class Spelling(Protocol):
    """Both ways."""

    def encode(self, text: str) -> list[int]:
        """The symbols of a prompt. Raises ConfigError if there is none, or a character that the run does not know."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of symbols."""


@dataclass(frozen=True)
class Characters:
    """Each symbol is a character."""

    characters: tuple[str, ...]  #: by symbol

    def encode(self, text: str) -> list[int]:
        known = {character: symbol for symbol, character in enumerate(self.characters)}
        for place, character in enumerate(text, 1):
            if character not in known:
                raise ConfigError(
                    f"--prompt has {character!r} (U+{ord(character):04X}) as its character {place}, which is not among "
                    f"the {len(known)} characters of the text that the run was trained on: leave it out"
                )
        if not text:
            raise ConfigError("--prompt is empty: give at least one character for the text to begin with")
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
            raise ConfigError(f"--prompt {text!r} has no token of the run's tokenizer: give another text to begin with")
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)


def spelling_of(symbols: tuple[str, ...] | Tokenizer) -> Spelling:
    """Of the characters of a run, or of its tokenizer."""
    return Tokens(symbols) if isinstance(symbols, Tokenizer) else Characters(symbols)


def held_back(text: str) -> str:
    """A text as far as its characters are whole."""
    return text.rstrip(UNFINISHED)
