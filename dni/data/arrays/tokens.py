"""Token ids in memory-mapped files."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch

from dni.data.arrays.file_digest import digest_of_files
from dni.data.arrays.layout import Layout, Sampling, held_out_layout, training_layout
from dni.data.arrays.token_file import SUFFIXES, TokenFile
from dni.data.base import Data, DataContext, FromFiles, Streamable, in_passes
from dni.data.source import PassSource, refuse_future_labels
from dni.data.window import Window
from dni.errors import ConfigError, DataError
from dni.ranges import one_or_more
from dni.types import IGNORED

TokenType = enum.Enum("TokenType", ["uint16", "uint32"])

#: The file with the size of the vocabulary, and nanoGPT's equivalent, which is a pickle.
META, PICKLE = "meta.json", "meta.pkl"


class TokenSource(PassSource):
    """Windows of token ids; the label of a token is the next one.

    Future labels that belong to the next sequence are IGNORED, because the state does not reach them.

    Args:
        file: the ids.
        layout: the start of each window.
        future_labels: L, labels after a window.
        streaming: labels after a window are not known yet; raise ConfigError if there are future labels.
    """

    def __init__(self, file: TokenFile, layout: Layout, future_labels: int = 0, *, streaming: bool = False) -> None:
        refuse_future_labels(streaming, future_labels)
        self.file, self.layout, self.future_labels, self.streaming = file, layout, future_labels, streaming
        self.symbols = self.input_symbols = file.vocabulary
        self.windows_per_pass = layout.windows_per_pass

    def window(self, n: int) -> Window:
        """Return window n. Raise DataError for an id outside the vocabulary."""
        place, steps, batch = self.layout.place(n), self.layout.window, self.layout.batch
        known = self.file.read(place.starts, steps + min(self.future_labels, place.left) + 1)
        labels = torch.full((batch, steps + self.future_labels), IGNORED)
        labels[:, : known.shape[1] - 1] = known[:, 1:]
        reset, done = (torch.full((batch,), here) for here in (place.within == 0, place.left == 0))
        return Window(known[:, :steps].contiguous(), labels, reset, done)


@dataclass
class Tokens(FromFiles, Streamable):
    """Token ids of a folder's train.bin, valid.bin and optional test.bin (or .npy). The label is the next token."""

    sequence: int | None = one_or_more(None)
    vocabulary: int | None = one_or_more(None)  # [tokens] V; ids are smaller. null: vocab_size of meta.json
    dtype: TokenType = TokenType.uint16  # element type of .bin files (little-endian); .npy files name their own
    sampling: Sampling = Sampling.streams  # streams: B parallel streams in order; random: each sequence (each window if
    # data.sequence=null) starts at an offset drawn from the seed and its number

    name: ClassVar[str] = "tokens"

    def open(self, context: DataContext) -> Data:
        folder = self._folder()
        paths = {part: _file_of(folder, part) for part in ("train", "valid", "test")}
        train, valid, test = paths["train"], paths["valid"], paths["test"]
        if train is None or valid is None:
            missing = "train" if train is None else "valid"
            raise DataError(f"{folder} has no {missing}.bin or {missing}.npy: {_instead(folder, missing)}")
        vocabulary = self.vocabulary or vocabulary_of(folder)
        return in_passes(
            folder.resolve().name,
            self._training(self._opened(train, vocabulary), context),
            self._held_out(self._opened(valid, vocabulary), context),
            digest=partial(digest_of_files, [train, valid]),
            test=None if test is None else lambda: self._held_out(self._opened(test, vocabulary), context),
        )

    def check(self, run: Any) -> None:
        super().check(run)
        self._check_path()

    def _check_path(self) -> Path:
        if self.path is None:
            raise ConfigError("data.path is not set: data=tokens data.path=FOLDER, which holds train.bin and valid.bin")
        return Path(self.path).expanduser()

    def _folder(self) -> Path:
        folder = self._check_path()
        if not folder.is_dir():
            raise DataError(f"no such folder: {folder}; give one that holds train.bin and valid.bin (or .npy files)")
        return folder

    def _opened(self, path: Path, vocabulary: int) -> TokenFile:
        return TokenFile(path, self.dtype.name, vocabulary)

    def _training(self, file: TokenFile, context: DataContext) -> TokenSource:
        layout = training_layout(self.sampling, *self._sizes(file, context), seed=context.seed, unit="tokens")
        return TokenSource(file, layout, context.future_labels, streaming=self.streaming)

    def _held_out(self, file: TokenFile, context: DataContext) -> TokenSource:
        layout = held_out_layout(self.sampling, *self._sizes(file, context), unit="tokens")
        return TokenSource(file, layout, context.future_labels)

    def _sizes(self, file: TokenFile, context: DataContext) -> tuple[int, int, int, int | None]:
        return len(file), self.batch, context.window, self.sequence


def vocabulary_of(folder: Path) -> int:
    """Return `vocab_size` of the folder's meta.json. Raise DataError, with the text to write, if it is missing."""
    path = folder / META
    write = f'set data.vocabulary=N, or write {{"vocab_size": N}} into {path}'
    if not path.is_file():
        pickled = f"{PICKLE} is not read because a pickle can run any code, and " if (folder / PICKLE).exists() else ""
        raise DataError(f"{pickled}the vocabulary size of {folder} is unknown: {write}")
    try:
        found = json.loads(path.read_bytes())["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no vocab_size ({type(error).__name__}: {error}): {write}") from None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise DataError(f"{path} has vocab_size {found!r}, which is not a number of tokens: {write}")
    return found


def _instead(folder: Path, missing: str) -> str:
    """Return the advice for a missing file; nanoGPT calls the validation part val.bin."""
    if missing == "valid" and (folder / "val.bin").is_file():
        return "rename val.bin to valid.bin"
    return "write the token ids of that part into it"


def _file_of(folder: Path, part: str) -> Path | None:
    found = [path for suffix in SUFFIXES if (path := folder / f"{part}{suffix}").is_file()]
    if len(found) > 1:
        raise DataError(f"{folder} holds both {found[0].name} and {found[1].name}: remove one of them")
    return found[0] if found else None
