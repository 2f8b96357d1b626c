"""Text as character ids, in streams of windows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dni.data.base import Data, DataContext, FromFiles, Streamable, in_passes
from dni.data.source import PassSource, refuse_future_labels
from dni.data.tokenizer import Tokenizer, read_tokenizer
from dni.data.utf8 import read_utf8
from dni.data.window import Window
from dni.errors import ConfigError, DataError
from dni.types import IGNORED

_PTB_FILES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")


@dataclass(frozen=True)
class Corpus:
    """A text, split and encoded as ids, which index `symbols`.

    The id tensors are one-dimensional: uint8 for at most 256 symbols, int32 otherwise.
    """

    name: str
    symbols: tuple[str, ...]  #: all characters of the text, sorted
    sha256: str  #: SHA-256 of the whole text (train, valid and test, in this order) in UTF-8
    train: Tensor
    valid: Tensor
    test: Tensor | None = None  #: None if the text has no test split of its own


def load_text(path: str | None = None) -> Corpus:
    """Read the text of a file, of a folder, or the default (None).

    The default is Python's own help pages (`pydoc_data.topics`), which depend on Python's version. A folder with
    `ptb.train.txt`, `ptb.valid.txt` and `ptb.test.txt` is the Penn Treebank and keeps its own split. In any other
    folder, all files except hidden ones are read recursively, sorted by path and joined by newlines. Any other text is
    split into the first 90 % (train) and the rest (valid). Byte order marks at the start of files are dropped. Raise
    DataError if nothing can be read or a file is not UTF-8.
    """
    return _encode(*_read(path))


def _read(path: str | None) -> tuple[str, list[str]]:
    """Return the name and the parts (train, valid, and test if there is one) of a text."""
    if path is None:
        return _split_in_two("pydoc-topics", _builtin_text())
    source = Path(path).expanduser()
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise DataError(f"no such file or folder: {source}; give a UTF-8 text file or a folder of them")
    return _split_in_two(source.name, read_utf8(source))


def _builtin_text() -> str:
    from pydoc_data.topics import topics  # a large module that few runs need

    return "\n".join(topics[key] for key in sorted(topics))


def _read_folder(folder: Path) -> tuple[str, list[str]]:
    missing = [name for name in _PTB_FILES if not (folder / name).is_file()]
    if not missing:
        return folder.name, [_strip_lines(read_utf8(folder / name)) for name in _PTB_FILES]
    if len(missing) < len(_PTB_FILES):
        raise DataError(f"the Penn Treebank in {folder} is incomplete: add {' and '.join(missing)}")
    files = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.parts)]
    if not files:
        raise DataError(f"the folder {folder} holds no files: put UTF-8 text files into it or give another folder")
    return _split_in_two(folder.name, "\n".join(read_utf8(folder / file) for file in files))


def _strip_lines(text: str) -> str:
    return "".join(f"{line.strip()}\n" for line in text.splitlines())


def _split_in_two(name: str, text: str) -> tuple[str, list[str]]:
    cut = len(text) * 9 // 10
    return name, [text[:cut], text[cut:]]


def _encode(name: str, parts: Sequence[str]) -> Corpus:
    text = "".join(parts)
    if not text:
        raise DataError(f"the text {name!r} is empty: give one that has characters")
    symbols = tuple(sorted(set(text)))
    table = np.zeros(ord(symbols[-1]) + 1, dtype=np.uint8 if len(symbols) <= 256 else np.int32)
    table[[ord(symbol) for symbol in symbols]] = np.arange(len(symbols))
    ids = [torch.from_numpy(table[np.frombuffer(part.encode("utf-32-le"), dtype="<u4")]) for part in parts]
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Corpus(name, symbols, digest, *ids)


class TextStreams:
    """A text as B contiguous streams of equal length, read in windows of T characters; window n depends on n alone.

    Each pass over the text runs through every stream from its start. A pass is one sequence. With `sequence` (in
    characters, a multiple of T), a new sequence begins every `sequence` characters, and the rest of a stream after its
    last whole sequence is not used. Future labels beyond the end of a sequence are IGNORED, because the state does not
    influence them. Raise ConfigError if the sizes do not fit each other, and DataError if the text is too short.
    """

    def __init__(
        self, ids: Tensor, batch: int, window: int, future_labels: int = 0, sequence: int | None = None
    ) -> None:
        if batch < 1 or window < 1 or future_labels < 0:
            raise ConfigError(f"need batch {batch} >= 1, window {window} >= 1 and future_labels {future_labels} >= 0")
        if sequence is not None and (sequence < 1 or sequence % window):
            nearest = max(window, round(sequence / window) * window)
            raise ConfigError(f"sequence {sequence} is not a multiple of the window {window}: use {nearest}, say")
        unit = sequence or window
        self.batch, self.window_size, self.future_labels = batch, window, future_labels
        stream = len(ids) // batch
        # The last input's label takes one more character.
        usable = (stream - 1) // unit * unit
        if usable < 1:
            raise DataError(
                f"this part of the text is too short: {batch} streams of {unit} characters and one label "
                f"need {batch * (unit + 1)} characters, it has {len(ids)}; "
                f"use a longer text, a smaller batch or a shorter {'sequence' if sequence else 'window'}"
            )
        self.windows_per_pass = usable // window
        self._sequence = sequence or usable
        self._streams = ids[: batch * stream].view(batch, stream)

    def window(self, n: int) -> Window:
        """Return window n = 0, 1, ...; from `windows_per_pass` on, those of the next passes."""
        start = n % self.windows_per_pass * self.window_size
        end = start + self.window_size
        sequence_end = (start // self._sequence + 1) * self._sequence
        known = self._streams[:, start + 1 : min(end + self.future_labels, sequence_end) + 1]
        labels = torch.full((self.batch, self.window_size + self.future_labels), IGNORED)
        labels[:, : known.shape[1]] = known
        reset = torch.full((self.batch,), start % self._sequence == 0)
        done = torch.full((self.batch,), end == sequence_end)
        return Window(self._streams[:, start:end].to(torch.int64, copy=True), labels, reset, done)


class TextSource(PassSource):
    """The windows of a text in order.

    Args:
        streams: the text.
        symbols: V, the number of different characters in the whole corpus.
        streaming: labels after a window are not known yet. Raises ConfigError if `streams` has future labels.
    """

    def __init__(self, streams: TextStreams, symbols: int, *, streaming: bool = False) -> None:
        refuse_future_labels(streaming, streams.future_labels)
        self.streams, self.streaming = streams, streaming
        self.symbols = self.input_symbols = symbols
        self.windows_per_pass = streams.windows_per_pass

    def window(self, n: int) -> Window:
        return self.streams.window(n)


@dataclass
class Text(FromFiles, Streamable):
    """Characters of a text file, a folder of text files, or the Penn Treebank. The label is the next character."""

    tokenizer: str | None = None  # tokenizer.json of the tokenizers library: tokens replace characters; null:
    # characters

    name: ClassVar[str] = "text"
    is_text: ClassVar[bool] = True

    def located(self) -> Text:
        moved = super().located()
        return replace(moved, tokenizer=self.tokenizer and str(Path(self.tokenizer).expanduser().absolute()))

    def open(self, context: DataContext) -> Data:
        if self.tokenizer is not None:
            return self._in_tokens(read_tokenizer(self.tokenizer), context)
        return self.of(load_text(self.path), context)

    def of(self, corpus: Corpus, context: DataContext) -> Data:
        """Return the windows of a text that has been read. Raise DataError if it is too short."""
        ids = [corpus.train, corpus.valid, *([] if corpus.test is None else [corpus.test])]
        own: dict[str, Any] = {"digest": lambda: corpus.sha256, "characters": corpus.symbols}
        return self._windows(corpus.name, ids, len(corpus.symbols), context, **own)

    def _in_tokens(self, tokenizer: Tokenizer, context: DataContext) -> Data:
        name, parts = _read(self.path)
        ids = [torch.tensor(tokenizer.encode(part), dtype=torch.int32) for part in parts]
        sizes = zip(("train", "valid", "test"), parts, ids, strict=False)
        own: dict[str, Any] = {
            "digest": lambda: _digest_in_tokens(parts, tokenizer),
            "tokenizer": tokenizer.content,
            "bytes_per_label": {split: len(part.encode()) / max(1, len(found)) for split, part, found in sizes},
        }
        return self._windows(name, ids, tokenizer.size, context, **own)

    def _windows(self, name: str, ids: Sequence[Tensor], symbols: int, context: DataContext, **own: Any) -> Data:
        def source(part: int) -> TextSource:
            streams = TextStreams(ids[part], self.batch, context.window, context.future_labels, self.sequence)
            return TextSource(streams, symbols, streaming=self.streaming and part == 0)

        test = partial(source, 2) if len(ids) > 2 else None
        return in_passes(name, source(0), source(1), test=test, **own)

    def alphabet(self) -> tuple[tuple[str, ...], str] | None:
        if self.tokenizer is not None:
            tokenizer = read_tokenizer(self.tokenizer)
            return tokenizer.tokens, _digest_in_tokens(_read(self.path)[1], tokenizer)
        corpus = load_text(self.path)
        return corpus.symbols, corpus.sha256


def _digest_in_tokens(parts: Sequence[str], tokenizer: Tokenizer) -> str:
    """Return the SHA-256 of the text followed by the tokenizer."""
    return hashlib.sha256("".join([*parts, tokenizer.content]).encode()).hexdigest()
