"""dni/data/tokenizer.py, and a text that is read in tokens."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import tokenizers
import torch

from dni.data import DataContext, Text, TextSource
from dni.data.text import TextStreams
from dni.data.tokenizer import Tokenizer, read_tokenizer
from dni.errors import ConfigError, DataError
from tests.support.data.bpe import write_bpe

WORDS = "the statement of the é class \U0001f600 is an expression; " * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_bpe(tmp_path / "tokenizer.json")


def test_text_goes_there_and_back(file: Path) -> None:
    found = read_tokenizer(str(file))
    assert found.size == 300
    assert (found.tokens[0], len(found.tokens)) == ("<end>", 300)
    ids = found.encode(WORDS)
    assert 0 not in ids  # no special tokens; and no truncation, which the file asks for
    assert 5 < len(ids) < len(WORDS.encode())
    assert found.decode(ids) == WORDS
    assert found.encode("") == []


def test_windows_are_those_of_the_librarys_ids(file: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(WORDS, encoding="utf-8")
    text = Text(path=str(tmp_path / "text.txt"), tokenizer=str(file), batch=2, sequence=None)
    data = text.open(DataContext(window=5, future_labels=1))
    cut = len(WORDS) * 9 // 10
    library = tokenizers.Tokenizer.from_file(str(file))
    library.no_truncation()
    ids = [library.encode(part).ids for part in (WORDS[:cut], WORDS[cut:])]
    assert isinstance(data.train, TextSource)
    for n, (window, part) in enumerate([(data.train.next(), ids[0]), (data.valid().next(), ids[1])]):
        expected = TextStreams(torch.tensor(part), 2, 5, 1).window(0)
        assert torch.equal(window.inputs, expected.inputs), n
        assert torch.equal(window.labels, expected.labels), n
    assert (data.symbols, data.characters) == (300, None)
    assert data.bytes_per_label["valid"] == len(WORDS[cut:].encode()) / len(ids[1])
    digest = hashlib.sha256((WORDS + file.read_text(encoding="utf-8")).encode()).hexdigest()
    assert data.sha256 == digest
    assert text.alphabet() == (Tokenizer(file.read_text(encoding="utf-8"), "here").tokens, digest)


def test_the_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Text(tokenizer="a.json").located().tokenizer == str(tmp_path / "a.json")
    assert Text().located().tokenizer is None


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    for content, says in ((b"{}", "is no tokenizer.json of the tokenizers library: "), (b"\xff", "it is not UTF-8")):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match=says) as refused:
            read_tokenizer(str(tmp_path / "a.json"))
        assert "\n" not in str(refused.value)
    with pytest.raises(
        DataError, match=r"cannot read .*b\.json: No such file .*give data\.tokenizer a tokenizer\.json"
    ):
        read_tokenizer(str(tmp_path / "b.json"))


def test_without_the_library_it_is_said_what_to_install(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"tokenizer\.json needs the tokenizers library, .*pip install 'dni\[tok"):
        read_tokenizer(str(file))
