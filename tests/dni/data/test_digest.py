"""A run records the digest of its data, and refuses to resume with other data."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dni.data.images import training_images
from dni.errors import ResumeError
from tests.support.pictures import digits, pictures
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.cli.evaluate import main
from workers.config.convert import fingerprint
from workers.config.settings import Config
from workers.launch.accept import settle
from workers.launch.launcher import launch
from workers.resume.resume import differences

IMAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "mnist": ("mlp_bn", {"window": 1, "sequence": None}),
    "cifar10": ("mlp_bn", {"window": 1, "sequence": None}),
    "seqmnist": ("lstm", {"window": 28, "sequence": None}),
    "two_clocks": ("two_clocks", {"window": 2, "block_length": 2, "sequence": 4}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of unpacked images, by file format. Tests must not leave changes in them."""
    base = tmp_path_factory.mktemp("images")
    for packed in digits(base / "digits").glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.rename(base / packed.name)
    return {"mnist": base / "digits", "cifar10": pictures(base / "pictures")}


def reading(kind: str, folders: dict[str, Path], **changes: Any) -> Config:
    model, shape = IMAGES[kind]
    folder = folders["cifar10" if kind == "cifar10" else "mnist"]
    return tiny(model={"kind": model}, data={"kind": kind, "path": str(folder), "batch": 4, **shape}, **changes)


def flip(file: Path, at: int, bit: int) -> None:
    raw = np.memmap(file, np.uint8, "r+")
    raw[at] ^= bit
    raw.flush()


FIRST, LAST, LABEL = "first pixel", "last pixel, of an image for validation", "label"
PLACES = {
    "mnist": {
        FIRST: ("train-images-idx3-ubyte", 16, 0x80),
        LAST: ("train-images-idx3-ubyte", -1, 0x80),
        LABEL: ("train-labels-idx1-ubyte", 8, 1),
    },
    "cifar10": {
        FIRST: ("data_batch_1.bin", 1, 0x80),
        LAST: ("data_batch_5.bin", -1, 0x80),
        LABEL: ("data_batch_5.bin", 0, 1),
    },
}


@pytest.mark.parametrize("kind", IMAGES)
def test_a_bit_of_the_images_changes_the_fingerprint(kind: str, folders: dict[str, Path]) -> None:
    files = "cifar10" if kind == "cifar10" else "mnist"
    whole, data = resolve(reading(kind, folders))
    assert whole.data.sha256 == data.sha256 is not None
    found = {fingerprint(whole)}
    for name, at, bit in PLACES[files].values():
        flip(folders[files] / name, at, bit)
        found.add(fingerprint(resolve(reading(kind, folders))[0]))
        flip(folders[files] / name, at, bit)
    assert len(found) == 4
    assert fingerprint(resolve(reading(kind, folders))[0]) == fingerprint(whole)


@pytest.mark.parametrize("kind", ["mnist", "cifar10"])
def test_the_digest_is_that_of_the_images_and_their_labels(kind: str, folders: dict[str, Path]) -> None:
    """Training data comes first, then validation data. Compression of the files has no influence."""
    train, valid = training_images(kind, folders[kind])  # type: ignore[arg-type]
    parts = [np.ascontiguousarray(part).tobytes() for part in (*train, *valid)]
    assert resolve(reading(kind, folders))[0].data.sha256 == hashlib.sha256(b"".join(parts)).hexdigest()


def test_packed_files_are_the_same_data(folders: dict[str, Path], tmp_path: Path) -> None:
    for packed in folders["mnist"].parent.glob("train-*.gz"):
        (tmp_path / packed.name.replace("-idx", ".idx")).write_bytes(packed.read_bytes())
    one, other = (resolve(reading("mnist", {"mnist": folder}))[0] for folder in (folders["mnist"], tmp_path))
    assert one.data.sha256 == other.data.sha256


def test_resume_refuses_changed_images(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = reading("mnist", folders, steps=2, stages=1, evaluate={"every": None})
    launch(config, tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["data"]["sha256"]
    assert kept == resolve(config)[0].data.sha256
    again = reading("mnist", folders, steps=4, stages=1, evaluate={"every": None}, resume=str(tmp_path / "run"))
    place = PLACES["mnist"][LABEL]
    flip(folders["mnist"] / place[0], *place[1:])
    try:
        changed = rf"data\.sha256 was {kept}, now [0-9a-f]+"
        with pytest.raises(ResumeError, match=f"was another run: {changed}; leave"):
            settle(again, None)
        assert main([str(tmp_path / "run")]) == 2
        assert f"the data has changed since it was trained on: data.sha256 was {kept}" in capsys.readouterr().err
    finally:
        flip(folders["mnist"] / place[0], *place[1:])
    assert settle(again, None)[0].resume_step == 2
    assert main([str(tmp_path / "run")]) == 0


def test_run_without_a_recorded_digest_can_be_resumed() -> None:
    """Image runs of earlier versions have no digest and can be resumed."""
    assert differences({"data": {"sha256": None}}, {"data": {"sha256": "ab"}}) == []
    assert differences({"data": {"sha256": "ab"}}, {"data": {"sha256": "cd"}}) == ["data.sha256 was ab, now cd"]


def test_generated_data_has_no_digest() -> None:
    assert resolve(tiny(data={"kind": "copy", "sequence": None}))[0].data.sha256 is None
