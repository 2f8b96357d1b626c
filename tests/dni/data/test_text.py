"""dni/data/text.py: reading, encoding and windows."""

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dni.data import TextStreams, load_text
from dni.errors import ConfigError, DataError
from dni.types import IGNORED


def decode(ids: torch.Tensor, symbols: tuple[str, ...]) -> str:
    return "".join(symbols[i] for i in ids.tolist())


def test_a_file_is_encoded_and_split(tmp_path: Path) -> None:
    (tmp_path / "fox.txt").write_bytes("cab cab é\r\n".encode())
    corpus = load_text(str(tmp_path / "fox.txt"))
    assert corpus.name == "fox.txt"
    assert corpus.symbols == ("\n", "\r", " ", "a", "b", "c", "é")
    assert corpus.train.tolist() == [5, 3, 4, 2, 5, 3, 4, 2, 6]  # 9 of 11 characters: 90 %, rounded down
    assert corpus.valid.tolist() == [1, 0]
    assert corpus.test is None
    assert corpus.sha256 == hashlib.sha256(b"cab cab \xc3\xa9\r\n").hexdigest()
    assert corpus.train.dtype == torch.uint8


def test_more_than_256_symbols(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(300)) + "\U0001f600"
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    corpus = load_text(str(tmp_path / "many.txt"))
    assert len(corpus.symbols) == 301
    assert corpus.train.dtype == torch.int32
    assert torch.cat([corpus.train, corpus.valid]).tolist() == list(range(301))


def test_a_folder_is_read_recursively_in_order(tmp_path: Path) -> None:
    for name, text in {"b.txt": "bb", "a/z.txt": "zz", "a/c.md": "cc", ".hidden": "h", ".git/x": "x"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    corpus = load_text(str(tmp_path))
    assert decode(torch.cat([corpus.train, corpus.valid]), corpus.symbols) == "cc\nzz\nbb"


def test_penn_treebank_keeps_its_split(tmp_path: Path) -> None:
    for part, text in {"train": " the cat \n sat \n", "valid": " a cat \n", "test": " dog <unk> N\n"}.items():
        (tmp_path / f"ptb.{part}.txt").write_text(text)
    corpus = load_text(str(tmp_path))
    assert corpus.test is not None
    parts = [decode(ids, corpus.symbols) for ids in (corpus.train, corpus.valid, corpus.test)]
    assert parts == ["the cat\nsat\n", "a cat\n", "dog <unk> N\n"]
    assert corpus.symbols == tuple(sorted(set("".join(parts))))
    assert corpus.sha256 == hashlib.sha256("".join(parts).encode()).hexdigest()


def test_the_built_in_text() -> None:
    corpus = load_text()
    whole = decode(torch.cat([corpus.train, corpus.valid]), corpus.symbols)
    assert 'The "assert" statement' in whole  # the page on `assert`, the first of the topics
    assert len(corpus.train) == len(whole) * 9 // 10
    assert len(whole) > 400_000
    assert corpus.symbols == tuple(sorted(set(whole)))
    assert corpus.sha256 == load_text().sha256


def test_unreadable_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder: "):
        load_text(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="holds no files"):
        load_text(str(tmp_path))
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"'empty\.txt' is empty"):
        load_text(str(tmp_path / "empty.txt"))
    (tmp_path / "latin.txt").write_bytes("abc é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text: .* at byte 4"):
        load_text(str(tmp_path))
    (tmp_path / "latin.txt").write_bytes(MARK + "abc é".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8 text: .* at byte 7"):
        load_text(str(tmp_path))


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_character_of_a_file(tmp_path: Path) -> None:
    """Only a mark at the start of a file is dropped; a mark inside the text is a character."""
    (tmp_path / "fox.txt").write_bytes(MARK + b"cab cab \xc3\xa9\r\n")
    corpus = load_text(str(tmp_path / "fox.txt"))
    assert corpus.symbols == ("\n", "\r", " ", "a", "b", "c", "é")
    assert corpus.train.tolist() == [5, 3, 4, 2, 5, 3, 4, 2, 6]
    assert (
        corpus.sha256 == hashlib.sha256(b"cab cab \xc3\xa9\r\n").hexdigest()
    )  # the digest of the text without the mark
    (tmp_path / "fox.txt").write_bytes(b"ab" + MARK + b"cd")
    assert load_text(str(tmp_path / "fox.txt")).symbols == ("a", "b", "c", "d", "\ufeff")
    (tmp_path / "fox.txt").write_bytes(MARK)
    with pytest.raises(DataError, match=r"'fox\.txt' is empty"):
        load_text(str(tmp_path / "fox.txt"))


def test_a_byte_order_mark_is_no_character_of_any_file_in_a_folder(tmp_path: Path) -> None:
    for name, text in {"a.txt": MARK + b"aa", "b.txt": b"bb", "c.txt": MARK + b"cc"}.items():
        (tmp_path / name).write_bytes(text)
    corpus = load_text(str(tmp_path))
    assert decode(torch.cat([corpus.train, corpus.valid]), corpus.symbols) == "aa\nbb\ncc"


def test_a_byte_order_mark_is_no_character_of_the_penn_treebank(tmp_path: Path) -> None:
    for part, text in {"train": b" the cat \n", "valid": b" a cat \n", "test": b" dog \n"}.items():
        (tmp_path / f"ptb.{part}.txt").write_bytes(MARK + text)
    corpus = load_text(str(tmp_path))
    assert corpus.test is not None
    parts = [decode(ids, corpus.symbols) for ids in (corpus.train, corpus.valid, corpus.test)]
    assert parts == ["the cat\n", "a cat\n", "dog\n"]


@pytest.mark.parametrize(
    ("encoding", "called"),
    [
        ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32"),
    ],
)  # fmt: skip
def test_another_encoding_of_unicode_is_named(encoding: str, called: str, tmp_path: Path) -> None:
    """UTF-16 without a mark is valid UTF-8 as well: every other character would be zero."""
    (tmp_path / "fox.txt").write_bytes("The quick brown fox — “and so on”.\r\n".encode(encoding))
    with pytest.raises(DataError) as refused:
        load_text(str(tmp_path / "fox.txt"))
    assert str(refused.value) == (
        f"{tmp_path}/fox.txt is {called}, not UTF-8 text: convert it (iconv -f {called} -t UTF-8 OLD > NEW) or leave "
        "it out"
    )


def test_an_incomplete_penn_treebank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ptb.train.txt").write_text("the cat\n")
    with pytest.raises(DataError, match=r"incomplete: add ptb\.valid\.txt and ptb\.test\.txt"):
        load_text(str(tmp_path))


def test_windows_of_two_streams() -> None:
    # 17 characters: streams 0-7 and 8-15, one left over; 3 windows of 2 inputs and the last label make 7.
    streams = TextStreams(torch.arange(17), batch=2, window=2, future_labels=3)
    assert streams.windows_per_pass == 3
    first, second, third = (streams.window(n) for n in range(3))
    assert first.inputs.tolist() == [[0, 1], [8, 9]]
    assert first.labels.tolist() == [[1, 2, 3, 4, 5], [9, 10, 11, 12, 13]]
    assert second.inputs.tolist() == [[2, 3], [10, 11]]
    assert second.labels.tolist() == [[3, 4, 5, 6, IGNORED], [11, 12, 13, 14, IGNORED]]
    assert third.labels.tolist() == [[5, 6, *[IGNORED] * 3], [13, 14, *[IGNORED] * 3]]
    assert first.reset.tolist() == [True, True]
    assert second.reset.tolist() == third.reset.tolist() == [False, False]
    assert all(torch.equal(a, b) for a, b in zip(streams.window(3)[:4], first[:4], strict=True))  # the next pass
    assert first.inputs.dtype == first.labels.dtype == torch.int64


def test_sequences_reset_and_hide_what_follows() -> None:
    # One stream of 14: three sequences of 4, in windows of 2; the label of the last input is character 12.
    streams = TextStreams(torch.arange(14, dtype=torch.uint8), batch=1, window=2, future_labels=3, sequence=4)
    assert streams.windows_per_pass == 6
    assert [streams.window(n).reset.item() for n in range(7)] == [True, False, True, False, True, False, True]
    assert streams.window(0).labels.tolist() == [[1, 2, 3, 4, IGNORED]]
    assert streams.window(1).labels.tolist() == [[3, 4, IGNORED, IGNORED, IGNORED]]
    assert streams.window(2).labels.tolist() == [[5, 6, 7, 8, IGNORED]]
    assert streams.window(5).labels.tolist() == [[11, 12, IGNORED, IGNORED, IGNORED]]


@settings(derandomize=True, deadline=None)
@given(
    length=st.integers(2, 300),
    batch=st.integers(1, 4),
    window=st.integers(1, 6),
    future_labels=st.integers(0, 9),
    per_sequence=st.none() | st.integers(1, 3),
    n=st.integers(0, 10_000),
)
def test_every_window_follows_its_definition(
    length: int, batch: int, window: int, future_labels: int, per_sequence: int | None, n: int
) -> None:
    sequence = per_sequence and per_sequence * window
    unit = sequence or window
    if length // batch < unit + 1:
        with pytest.raises(DataError):
            TextStreams(torch.arange(length), batch, window, future_labels, sequence)
        return
    streams = TextStreams(torch.arange(length), batch, window, future_labels, sequence)
    pass_length = streams.windows_per_pass * window
    assert pass_length % unit == 0
    assert pass_length <= length // batch - 1 < pass_length + unit
    inputs, labels, reset, *_ = streams.window(n)
    at = n * window % pass_length
    end = (at // sequence + 1) * sequence if sequence else pass_length
    for b in range(batch):
        stream = b * (length // batch)
        assert inputs[b].tolist() == [stream + at + t for t in range(window)]
        ahead = [at + 1 + t for t in range(window + future_labels)]
        assert labels[b].tolist() == [stream + i if i <= end else IGNORED for i in ahead]
    assert reset.tolist() == [at % (sequence or pass_length) == 0] * batch


def test_windows_are_copies() -> None:
    streams = TextStreams(torch.arange(9), batch=2, window=2)
    streams.window(0).inputs.zero_()
    streams.window(0).labels.zero_()
    assert streams.window(0).inputs.tolist() == [[0, 1], [4, 5]]
    assert streams.window(0).labels.tolist() == [[1, 2], [5, 6]]


def test_too_short_text_is_refused() -> None:
    TextStreams(torch.arange(10), batch=2, window=4)
    with pytest.raises(DataError, match="2 streams of 4 characters and one label need 10 characters, it has 9"):
        TextStreams(torch.arange(9), batch=2, window=4)
    with pytest.raises(DataError, match=r"need 18 characters, it has 10; .* shorter sequence"):
        TextStreams(torch.arange(10), batch=2, window=4, sequence=8)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="sequence 10 is not a multiple of the window 4: use 8, say"):
        TextStreams(torch.arange(100), batch=1, window=4, sequence=10)
    with pytest.raises(ConfigError, match="batch 0 >= 1"):
        TextStreams(torch.arange(100), batch=0, window=4)
