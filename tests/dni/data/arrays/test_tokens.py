"""dni/data/arrays/tokens.py and token_file.py: what is read of which file, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dni.data import Data, DataContext, Tokens, TokenSource
from dni.data.arrays.token_file import TokenFile
from dni.data.arrays.tokens import Sampling, TokenType
from dni.data.text import TextStreams
from dni.errors import ConfigError, DataError
from dni.types import IGNORED

IDS = np.arange(100) * 37 % 90


def written(folder: Path, **parts: np.ndarray) -> Path:
    """A folder of .bin files in uint16."""
    for part, ids in ({"train": IDS, "valid": IDS[:40]} | parts).items():
        ids.astype("<u2").tofile(folder / f"{part}.bin")
    return folder


def opened(folder: Path, context: DataContext | None = None, **settings: Any) -> Data:
    own = {"batch": 3, "vocabulary": 90, "path": str(folder), **settings}
    return Tokens(**own).open(context or DataContext(window=4))


def test_windows_are_those_of_a_text_with_these_ids(tmp_path: Path) -> None:
    """Streams, sequences and labels beyond the window, against the streams that data=text has."""
    train = opened(written(tmp_path), DataContext(window=4, future_labels=3), sequence=8).train
    expected = TextStreams(torch.from_numpy(IDS), 3, 4, 3, 8)
    assert isinstance(train, TokenSource)
    assert train.windows_per_pass == expected.windows_per_pass == 8
    for n in range(20):
        for found, wanted in zip(train.window(n)[:4], expected.window(n)[:4], strict=True):
            assert torch.equal(found, wanted)
            assert found.dtype == wanted.dtype


def test_every_type_of_file_gives_the_same_ids(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("two", "four", "array")]
    for folder in folders:
        folder.mkdir()
    written(folders[0])
    for part, ids in {"train": IDS, "valid": IDS[:40]}.items():
        ids.astype("<u4").tofile(folders[1] / f"{part}.bin")
        np.save(folders[2] / f"{part}.npy", ids.astype(np.int64))
    found = [opened(folders[0]), opened(folders[1], dtype=TokenType.uint32), opened(folders[2])]
    windows = [data.train.next() for data in found]
    assert windows[0].inputs.tolist() == [IDS[start : start + 4].tolist() for start in (0, 33, 66)]
    for window in windows[1:]:
        assert torch.equal(window.inputs, windows[0].inputs)
        assert torch.equal(window.labels, windows[0].labels)


def test_random_crops_go_on_exactly_from_their_state(tmp_path: Path) -> None:
    context = DataContext(window=4, seed=5, future_labels=2)
    train = opened(written(tmp_path), context, sampling=Sampling.random).train
    windows = [train.next() for _ in range(6)]
    for n, window in enumerate(windows):
        offsets = np.random.default_rng((5, n)).integers(96, size=3)
        rows = [IDS[at : at + 5] for at in offsets]
        assert window.inputs.tolist() == [row[:4].tolist() for row in rows]
        assert window.labels.tolist() == [[*row[1:].tolist(), IGNORED, IGNORED] for row in rows]
        assert window.reset.all()
        assert window.done.all()
    again = opened(tmp_path, context, sampling=Sampling.random).train
    again.load_state_dict({"window": 4})
    assert torch.equal(again.next().inputs, windows[4].inputs)


def test_a_crop_may_have_several_windows_and_validation_sequences_are_as_long(tmp_path: Path) -> None:
    data = opened(written(tmp_path), sampling=Sampling.random, sequence=8)
    first, second = data.train.next(), data.train.next()
    assert (first.reset.all(), first.done.any(), second.reset.any(), second.done.all()) == (True, False, False, True)
    assert torch.equal(first.labels[:, -1], second.inputs[:, 0])
    source = data.valid()
    assert data.valid_windows == 2  # 40 ids: 3 streams of 13, one sequence of 8 each
    assert source.next().inputs.tolist() == [IDS[start : start + 4].tolist() for start in (0, 13, 26)]
    assert source.next().done.all()


def test_the_test_part_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    assert opened(written(tmp_path)).test is None
    data = opened(written(tmp_path, test=np.full(50, 7)))
    assert data.test is not None
    assert data.test().next().inputs.tolist() == 3 * [4 * [7]]


def test_the_vocabulary_is_a_setting_or_in_meta_json(tmp_path: Path) -> None:
    (written(tmp_path) / "meta.json").write_text(json.dumps({"vocab_size": 91}))
    assert opened(tmp_path, vocabulary=None).symbols == 91
    assert opened(tmp_path, vocabulary=95).symbols == 95
    for wrong in ("{}", "[]", "{", '{"vocab_size": "9"}', '{"vocab_size": 0}'):
        (tmp_path / "meta.json").write_text(wrong)
        with pytest.raises(DataError, match=r'meta\.json .*set data\.vocabulary=N, or write {"vocab_size": N} into'):
            opened(tmp_path, vocabulary=None)


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (written(tmp_path) / "meta.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(
        DataError, match=r"meta\.pkl is not read because a pickle can run any code, .*data\.vocabulary=N"
    ):
        opened(tmp_path, vocabulary=None)
    np.save(tmp_path / "train.npy", np.array([Trap(tmp_path / "sprung")], dtype=object))
    (tmp_path / "train.bin").unlink()
    with pytest.raises(DataError, match=r"cannot read .*train\.npy: .*write a one-dimensional array of integers"):
        opened(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_an_id_outside_of_the_vocabulary_is_named_when_it_is_met(tmp_path: Path) -> None:
    ids = IDS.copy()
    ids[71] = 300
    data = opened(written(tmp_path, train=ids))  # nothing is read yet
    data.train.next()
    with pytest.raises(DataError, match=r"train\.bin: the token at position 71 is 300, outside 0 to 89: set data\.v"):
        data.train.next()
    np.save(tmp_path / "valid.npy", np.full(40, -1))
    (tmp_path / "valid.bin").unlink()
    with pytest.raises(DataError, match=r"valid\.npy: the token at position 0 is -1"):
        opened(tmp_path).valid().next()


def test_files_that_are_not_as_described(tmp_path: Path) -> None:
    def refused(says: str, **settings: Any) -> None:
        with pytest.raises(DataError, match=says) as error:
            opened(tmp_path, **settings)
        assert "\n" not in str(error.value)

    refused("has no train.bin or train.npy")
    written(tmp_path)
    (tmp_path / "train.bin").write_bytes(b"abc")
    refused(r"train\.bin has 3 bytes, not a multiple of the 2 of a token: it is truncated, or not uint16")
    (tmp_path / "train.bin").write_bytes(b"abcdef")
    refused(r"train\.bin has 6 bytes, not a multiple of the 4", dtype=TokenType.uint32)
    refused(r"too short: 3 streams of 4 and the labels after need 15 tokens, it has 3")
    refused(r"too short: a crop of 4 and the label after it need 5 tokens, it has 3", sampling=Sampling.random)
    (tmp_path / "train.bin").write_bytes(b"")
    refused(r"train\.bin is empty")
    np.save(tmp_path / "train.npy", np.zeros((5, 5), dtype=int))
    refused(r"holds both train\.bin and train\.npy: remove one of them")
    (tmp_path / "train.bin").unlink()
    refused(r"train\.npy is int64 of shape \(5, 5\): write a one-dimensional array of integers")
    np.save(tmp_path / "train.npy", np.zeros(50))
    refused(r"train\.npy is float64 of shape \(50,\)")
    refused("no such folder: .*nowhere", path=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"data\.path is not set: data=tokens data\.path=FOLDER"):
        Tokens().open(DataContext(window=4))


def test_a_wider_type_and_nanogpts_names_are_recognised(tmp_path: Path) -> None:
    IDS.astype("<u4").tofile(written(tmp_path) / "train.bin")
    with pytest.raises(DataError, match=r"every second token of .*train\.bin is 0, .*: set data\.dtype=uint32"):
        opened(tmp_path)
    (written(tmp_path) / "valid.bin").rename(tmp_path / "val.bin")
    with pytest.raises(DataError, match=r"has no valid\.bin or valid\.npy: rename val\.bin to valid\.bin"):
        opened(tmp_path)


def test_the_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    """A sparse file of 64 GiB, of which two windows are read."""
    path = tmp_path / "train.bin"
    with path.open("wb") as file:
        file.truncate(2**36)
    large = TokenFile(path, "uint16", 10)
    assert len(large) == 2**35
    assert large.read([0, 2**35 - 4], 4).tolist() == 2 * [4 * [0]]
