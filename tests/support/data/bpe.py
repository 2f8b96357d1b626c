"""A small byte-level BPE, trained on the text that comes with the project."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dni.data.text import _builtin_text


@cache
def _trained(size: int, start: int) -> str:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([_builtin_text()[start : start + 50_000]], trainer)
    made.enable_truncation(5)  # which must do nothing here
    return str(made.to_str())


def write_bpe(path: Path, size: int = 300, start: int = 0) -> Path:
    """Write a tokenizer.json of `size` tokens: <end>, the 256 bytes, and merges of the text from `start` on."""
    path.write_text(_trained(size, start), encoding="utf-8")
    return path
