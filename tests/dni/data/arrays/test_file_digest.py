"""dni/data/arrays/file_digest.py: which bytes of a file go into its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dni.data.arrays import file_digest
from dni.data.arrays.file_digest import digest_of_files
from dni.errors import DataError


def test_small_files_are_read_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    paths = [tmp_path / "a", tmp_path / "b"]
    assert digest_of_files(paths) == hashlib.sha256(b"a" * 1000 + b"b" * 1000).hexdigest()


def test_of_a_large_file_size_and_pieces_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 pieces of 4 bytes of a file of 21: from byte 0, from 8 (17 / 2, rounded down), and the last 4."""
    for name, value in {"WHOLE": 20, "PIECES": 3, "PIECE": 4}.items():
        monkeypatch.setattr(file_digest, name, value)
    body = bytes(range(21))
    (tmp_path / "large").write_bytes(body)
    wanted = (21).to_bytes(8, "little") + body[:4] + body[8:12] + body[17:]
    assert digest_of_files([tmp_path / "large"]) == "sampled:" + hashlib.sha256(wanted).hexdigest()


def test_a_change_of_size_or_ends_shows_and_one_between_pieces_does_not(tmp_path: Path) -> None:
    path, size = tmp_path / "large", 40 * 2**20
    found = []
    for place, length in ((None, size), (0, size), (size - 1, size), (None, size + 1), (2**16, size)):
        with path.open("wb") as file:
            file.truncate(length)
            if place is not None:
                file.seek(place)
                file.write(b"x")
        found.append(digest_of_files([path]))
    assert len({*found[:4]}) == 4
    assert found[4] == found[0]  # byte 65,536 is just after the first piece


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*gone: No such file"):
        digest_of_files([tmp_path / "gone"])
