"""dni/data/sequential_mnist.py: order of pixels and images, and files that are not MNIST."""

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from dni.data import PixelSource, Source
from dni.data.sequential_mnist import load_mnist
from dni.errors import ConfigError, DataError
from dni.types import IGNORED

TRAIN = 5_006  # 6 for training, 5,000 for validation


def write(folder: Path, name: str, images: np.ndarray, labels: np.ndarray) -> None:
    head = struct.pack(">4I", 2051, len(images), 28, 28)
    (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes(), 1))
    head = struct.pack(">2I", 2049, len(labels))
    (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(head + labels.tobytes(), 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image i is grey i everywhere (modulo 256), its label i modulo 10; the test set has 3 images of noise."""
    path = tmp_path_factory.mktemp("mnist")
    number = np.arange(TRAIN)
    grey = (number % 256).astype(np.uint8).repeat(28 * 28).reshape(TRAIN, 28, 28)
    write(path, "train", grey, (number % 10).astype(np.uint8))
    noise = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    write(path, "t10k", noise, np.array([7, 2, 1], dtype=np.uint8))
    return path


def whole(source: PixelSource) -> tuple[torch.Tensor, torch.Tensor, list[bool]]:
    """The next sequence: inputs and labels of all its windows, and the resets."""
    windows = [source.next() for _ in range(-(-source.length // source.window_size))]
    labels = [w.labels[:, : source.window_size] for w in windows]
    resets = [bool(w.reset.all()) for w in windows]
    return torch.cat([w.inputs for w in windows], dim=1), torch.cat(labels, dim=1), resets


def test_pixels_row_by_row(folder: Path) -> None:
    source = PixelSource(folder, batch=3, window=300, part="test", levels=256)
    inputs, labels, resets = whole(source)
    images = load_mnist(folder, "test")[0]
    assert inputs.shape == (3, 900)
    assert torch.equal(inputs[:, :784], images.flatten(1).long())
    assert inputs[:, 784:].count_nonzero() == 0
    assert labels[:, 783].tolist() == [7, 2, 1]
    assert int((labels != IGNORED).sum()) == 3
    assert resets == [True, False, False]
    assert (source.windows_per_pass, source.symbols, source.input_symbols) == (3, 10, 256)


@pytest.mark.parametrize(("side", "block"), [(14, 2), (7, 4)])
def test_smaller_images_are_means(folder: Path, side: int, block: int) -> None:
    source = PixelSource(folder, batch=1, window=side, part="test", side=side)  # type: ignore[arg-type]
    inputs, labels, _ = whole(source)
    image = load_mnist(folder, "test")[0][0].numpy().astype(float)
    for at, grey in enumerate(inputs[0].tolist()):
        row, column = divmod(at, side)
        mean = image[row * block : (row + 1) * block, column * block : (column + 1) * block].mean()
        assert grey == int(mean * 16 / 256)
    assert inputs.shape == labels.shape == (1, side * side)
    assert labels[0, -1] == 7


def test_the_label_is_seen_ahead_but_not_the_next_sequences(folder: Path) -> None:
    source = PixelSource(folder, batch=1, window=16, future_labels=4, part="test", side=7)  # windows 0 ... 3
    labels = [source.next().labels[0] for _ in range(8)]
    assert [(n, int(at), int(row[at])) for n, row in enumerate(labels) for at in (row != IGNORED).nonzero()] == [
        (2, 16, 7),  # pixel 48 is the first after window 2
        (3, 0, 7),
        (6, 16, 2),
        (7, 0, 2),
    ]


def test_the_training_images_are_shuffled_by_seed_and_pass(folder: Path) -> None:
    def passes(seed: int) -> list[list[int]]:
        source = PixelSource(folder, batch=2, window=49, side=7, seed=seed, levels=256)
        assert source.windows_per_pass == 3
        return [[g for _ in range(3) for g in source.next().inputs[:, 0].tolist()] for _ in range(4)]

    first = passes(0)
    assert first == passes(0)
    assert all(sorted(p) == [0, 1, 2, 3, 4, 5] for p in first)
    assert len({tuple(p) for p in first + passes(1)}) > 6


def test_validation_is_the_end_of_the_training_files_in_order(folder: Path) -> None:
    source = PixelSource(folder, batch=2, window=49, part="valid", side=7, levels=256)
    assert source.windows_per_pass == 2500
    first = source.next()
    assert first.inputs[:, 0].tolist() == [6, 7]
    assert first.labels[:, 48].tolist() == [6, 7]
    assert source.window(2499).labels[:, 48].tolist() == [5004 % 10, 5005 % 10]
    assert source.window(2500).inputs.tolist() == first.inputs.tolist()


def test_resumed_in_the_middle_of_a_sequence(folder: Path) -> None:
    def make() -> Source:
        return PixelSource(folder, batch=2, window=20, side=7, levels=256)

    source, resumed = make(), make()
    for n in range(11):
        source.next()
        source.report(n, 1.0, 2)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(source.next()[:4], resumed.next()[:4], strict=True))


def test_wrong_settings_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="side 10 must be 28, 14 or 7"):
        PixelSource(folder, 1, 1, side=10)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="300 grey levels between 2 and 256"):
        PixelSource(folder, 1, 1, levels=300)
    with pytest.raises(ConfigError, match="window 0 >= 1"):
        PixelSource(folder, 1, 0)
    with pytest.raises(ConfigError, match="does not know the 2 labels"):
        PixelSource(folder, 1, 4, 2, streaming=True)
    with pytest.raises(DataError, match="3 test images are fewer than one batch of 4"):
        PixelSource(folder, 4, 4, part="test")


def test_files_that_are_not_mnist(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        load_mnist(tmp_path, "test")
    assert str(refused.value) == (
        f"no t10k-images-idx3-ubyte.gz in {tmp_path}, nor t10k-images-idx3-ubyte, t10k-images.idx3-ubyte.gz or "
        "t10k-images.idx3-ubyte: give a folder with MNIST's four files, gzipped or not"
    )
    images, labels = np.zeros((2, 28, 28), np.uint8), np.array([1, 2], np.uint8)
    file = tmp_path / "t10k-images-idx3-ubyte.gz"

    write(tmp_path, "t10k", images, labels[:1])
    with pytest.raises(DataError, match="holds 2 t10k images, but 1 labels"):
        load_mnist(tmp_path, "test")
    write(tmp_path, "t10k", images, labels + 9)
    with pytest.raises(DataError, match="holds a t10k label 11"):
        load_mnist(tmp_path, "test")
    write(tmp_path, "t10k", images, labels)
    good = file.read_bytes()
    for broken in (good[:-12], b"text", gzip.compress(b"\0\0")):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="is not a complete file of images"):
            load_mnist(tmp_path, "test")
    file.write_bytes(gzip.compress(struct.pack(">4I", 2051, 3, 28, 28) + images.tobytes()))
    with pytest.raises(DataError, match="should have 3 images, 2352 bytes, but has 1568"):
        load_mnist(tmp_path, "test")
    file.write_bytes(gzip.compress(struct.pack(">4I", 2051, 2, 32, 32)))
    with pytest.raises(DataError, match=r"does not hold MNIST's images: its header is 2051 2 \[32, 32\]"):
        load_mnist(tmp_path, "test")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("named", ["{}-idx{}-ubyte", "{}.idx{}-ubyte", "{}-idx{}-ubyte.gz", "{}.idx{}-ubyte.gz"])
def test_files_are_read_packed_or_not_under_each_of_their_names(named: str, packed: bool, tmp_path: Path) -> None:
    """The first bytes tell whether a file is gzipped. Archives contain folders with two of the names."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    digits = np.array([7, 2, 1], dtype=np.uint8)
    files = {
        named.format("t10k-images", 3): struct.pack(">4I", 2051, 3, 28, 28) + pixels.tobytes(),
        named.format("t10k-labels", 1): struct.pack(">2I", 2049, 3) + digits.tobytes(),
    }
    for name, raw in files.items():
        (tmp_path / name).write_bytes(gzip.compress(raw) if packed else raw)
    if named != "{}-idx{}-ubyte":
        (tmp_path / "t10k-images-idx3-ubyte").mkdir()
    images, labels = load_mnist(tmp_path, "test")
    assert np.array_equal(images.numpy(), pixels)
    assert labels.tolist() == [7, 2, 1]


def test_a_file_that_is_not_packed_can_be_cut_short_too(tmp_path: Path) -> None:
    file = tmp_path / "t10k-images-idx3-ubyte"
    for cut, message in (
        (5, "is not a complete file of images"),
        (1584, "should have 3 images, 2352 bytes, but has 1568"),
    ):
        file.write_bytes((struct.pack(">4I", 2051, 3, 28, 28) + bytes(2352))[:cut])
        with pytest.raises(DataError, match=message):
            load_mnist(tmp_path, "test")


def test_the_real_images() -> None:
    path = Path(os.environ.get("DNI_MNIST", Path(__file__).parents[4] / "shared/data/mnist"))
    if not path.is_dir():
        pytest.skip(f"MNIST is not in {path}: name its folder in DNI_MNIST")
    sizes = {"train": 55_000, "valid": 5_000, "test": 10_000}
    parts = {part: load_mnist(path, part) for part in sizes}  # type: ignore[arg-type]
    assert {part: len(images) for part, (images, _) in parts.items()} == sizes
    assert parts["train"][1][:5].tolist() == [5, 0, 4, 1, 9]
    assert parts["test"][1][:3].tolist() == [7, 2, 1]
    everything = torch.cat([parts["train"][0], parts["valid"][0]])
    assert everything.double().mean().item() / 255 == pytest.approx(0.1307, abs=1e-4)  # the known mean grey
    inputs, labels, _ = whole(PixelSource(path, 4, 14, side=14, part="test"))
    assert inputs.shape == (4, 196)
    assert labels[:, -1].tolist() == [7, 2, 1, 0]
