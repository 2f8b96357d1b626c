"""dni/data/images.py: reading, normalisation, order of images, and files of the wrong kind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dni.data import ImageSource, Source, Window
from dni.data.augmentation import Augmentation
from dni.data.images import Images, Scale, held_out_images, label_of, training_images
from dni.data.window import split_labels
from dni.errors import ConfigError, DataError
from tests.dni.data.test_sequential_mnist import write
from tests.support.pictures import digits, pictures
from tests.support.runs import tiny
from workers.build.data import open_data


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("pictures"))


def numbered(count: int) -> Images:
    """Image i is i everywhere, its label i modulo 10."""
    number = torch.arange(count, dtype=torch.uint8)
    return Images(number.view(-1, 1, 1, 1).expand(-1, 2, 3, 4).contiguous(), number % 10)


AS_IT_IS = Scale(torch.zeros(2, 1, 1), torch.ones(2, 1, 1))


def test_cifar10_is_read_plane_by_plane(cifar10: Path) -> None:
    train, valid = training_images("cifar10", cifar10)
    raw = np.concatenate([np.fromfile(cifar10 / f"data_batch_{n}.bin", np.uint8) for n in (1, 2, 3, 4, 5)])
    records = raw.reshape(-1, 3073)
    assert train.pixels.shape == (64, 3, 32, 32)
    assert valid.pixels.shape == (5_000, 3, 32, 32)
    assert train.pixels[5, 1, 2, 3] == records[5, 1 + 1024 + 2 * 32 + 3]
    both = np.concatenate([train.pixels.numpy(), valid.pixels.numpy()]).reshape(-1, 3072)
    assert np.array_equal(both, records[:, 1:])
    assert np.array_equal(torch.cat([train.labels, valid.labels]).numpy(), records[:, 0])
    numbers = valid.pixels[:, 0, 0, :2].int() @ torch.tensor([1, 256], dtype=torch.int32)
    assert numbers.tolist() == [*range(64, 5_064)]
    assert len(held_out_images("cifar10", cifar10).pixels) == 20


def test_mnist_has_one_channel_and_the_parts_share_one_memory(mnist: Path) -> None:
    train, valid = training_images("mnist", mnist)
    test = held_out_images("mnist", mnist)
    assert [p.pixels.shape for p in (train, valid, test)] == [(64, 1, 28, 28), (5_000, 1, 28, 28), (20, 1, 28, 28)]
    assert train.pixels.untyped_storage().data_ptr() == valid.pixels.untyped_storage().data_ptr()
    bright = train.pixels[:, 0].double().mean(1).argmax(1) - 4
    assert (bright // 2).tolist() == train.labels.tolist()


def test_normalisation_by_the_mean_and_deviation_of_every_channel(cifar10: Path) -> None:
    """Compare with numpy in double precision. The blue plane is constant, and therefore only centred."""
    train, _ = training_images("cifar10", cifar10)
    scale = Scale.of(train.pixels)
    values = train.pixels.double().numpy()
    np.testing.assert_allclose(scale.mean.flatten(), values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(scale.deviation.flatten()[:2], values.std((0, 2, 3))[:2], rtol=1e-6)
    assert scale.deviation[2] == 1
    inputs = ImageSource(train, 64, scale).next().inputs
    torch.testing.assert_close(inputs.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(inputs.var((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]))


def test_sums_of_many_images_do_not_overflow() -> None:
    scale = Scale.of(torch.tensor([0, 255], dtype=torch.uint8).repeat(1500).view(3000, 1, 1, 1).expand(-1, 1, 90, 90))
    assert (scale.mean.item(), scale.deviation.item()) == (127.5, 127.5)


def test_a_window_is_a_batch_of_examples_with_one_label_each() -> None:
    window = ImageSource(numbered(7), 3, Scale(torch.full((2, 1, 1), 2.0), torch.full((2, 1, 1), 4.0))).next()
    assert (window.inputs.shape, window.inputs.dtype) == ((3, 2, 3, 4), torch.float32)
    assert window.inputs[:, 1, 2, 3].tolist() == [-0.5, -0.25, 0.0]
    assert (window.labels.tolist(), window.labels.dtype) == ([0, 1, 2], torch.int64)
    assert window.reset.all()
    assert window.done.all()
    assert window.steps == 1
    own, context = split_labels(window.inputs, window.labels)
    assert own.tolist() == [0, 1, 2]
    assert context.shape == (3, 0)


def test_labels_of_a_sequence_are_split_at_its_end() -> None:
    window = Window(torch.zeros(2, 3), torch.arange(10).view(2, 5), torch.ones(2), torch.ones(2))
    own, context = split_labels(window.inputs, window.labels)
    assert own.tolist() == [[0, 1, 2], [5, 6, 7]]
    assert context.tolist() == [[3, 4], [8, 9]]
    assert window.steps == 3


def test_the_training_images_are_shuffled_by_seed_and_pass() -> None:
    def passes(seed: int) -> list[list[int]]:
        source = ImageSource(numbered(7), 2, AS_IT_IS, shuffle=True, seed=seed)
        assert source.windows_per_pass == 3
        return [[int(i) for _ in range(3) for i in source.next().inputs[:, 0, 0, 0]] for _ in range(4)]

    first = passes(0)
    assert first == passes(0)
    assert all(len(set(p)) == 6 for p in first)
    assert len({tuple(p) for p in first + passes(1)}) > 6


def test_other_parts_are_read_whole_and_in_order() -> None:
    source = ImageSource(numbered(7), 3, AS_IT_IS)
    assert source.windows_per_pass == 3
    for _ in range(2):
        assert [source.next().labels.tolist() for _ in range(3)] == [[0, 1, 2], [3, 4, 5], [6]]


def test_noise_is_that_of_the_seed_and_the_batch() -> None:
    """The noise is Gaussian with the given deviation, and differs between batches and between passes."""

    def noise(seed: int, size: float, batch: int = 0) -> Tensor:
        source, clean = (ImageSource(numbered(20), 20, AS_IT_IS, seed=seed, noise=n) for n in (size, 0.0))
        window, expected = source.window(batch), clean.window(batch)
        assert torch.equal(window.labels, expected.labels)
        assert window.inputs.dtype == torch.float32
        return window.inputs - expected.inputs

    torch.testing.assert_close(noise(0, 0.5), noise(0, 0.5), rtol=0, atol=0)
    torch.testing.assert_close(noise(0, 2.0), 4 * noise(0, 0.5), rtol=1e-4, atol=1e-4)
    drawn = torch.stack([noise(seed, 1.0, batch) for seed in (0, 1) for batch in (0, 1, 2)]).flatten(1)
    assert drawn.shape == (6, 480)
    torch.testing.assert_close(drawn.mean(1), torch.zeros(6), rtol=0, atol=4 / 480**0.5)
    torch.testing.assert_close(drawn.std(1), torch.ones(6), rtol=0, atol=4 / 960**0.5)
    assert (torch.corrcoef(drawn) - torch.eye(6)).abs().max() < 4 / 480**0.5


def test_only_training_images_are_changed(mnist: Path) -> None:
    def parts(noise: float, **more: Any) -> list[Tensor]:
        changes = {"noise": noise, **more}
        settings = {"kind": "mnist", "path": str(mnist), "batch": 8, "window": 1, "sequence": None, **changes}
        data = open_data(tiny(model={"kind": "mlp_bn"}, data=settings))
        assert data.test is not None
        return [source.next().inputs for source in (data.train, data.valid(), data.test())]

    (train, *others), (noisy, *same) = parts(0.0), parts(0.3)
    assert (noisy - train).std().item() == pytest.approx(0.3, rel=0.05)
    assert all(torch.equal(a, b) for a, b in zip(others, same, strict=True))
    mirrored, *unchanged = parts(0.0, flip=True)
    images = list(zip(mirrored, train, strict=True))
    assert {torch.equal(a, b.flip(2)) for a, b in images} == {True, False}
    assert all(torch.equal(a, b) or torch.equal(a, b.flip(2)) for a, b in images)
    assert all(torch.equal(a, b) for a, b in zip(others, unchanged, strict=True))


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_resumed_in_the_middle_of_a_pass(noise: float) -> None:
    def make() -> Source:
        augment = Augmentation(0, flip=True, crop_padding=2) if noise else None
        return ImageSource(numbered(20), 3, AS_IT_IS, shuffle=True, noise=noise, augment=augment)

    source, resumed = make(), make()
    for n in range(8):
        source.next()
        source.report(n, 1.0, 3)
    resumed.load_state_dict(json.loads(json.dumps(source.state_dict())))
    for _ in range(14):
        assert all(torch.equal(a, b) for a, b in zip(source.next()[:4], resumed.next()[:4], strict=True))


def test_wrong_settings_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="need batch 0 >= 1"):
        ImageSource(numbered(7), 0, AS_IT_IS)
    with pytest.raises(DataError, match="7 images are fewer than one batch of 8"):
        ImageSource(numbered(7), 8, AS_IT_IS, shuffle=True)
    with pytest.raises(DataError, match=r"cannot read .*data_batch_1\.bin: No such file.*binary version"):
        training_images("cifar10", tmp_path)
    with pytest.raises(DataError, match=r"no train-images-idx3-ubyte\.gz in"):
        training_images("mnist", tmp_path)
    write(tmp_path, "train", np.zeros((5_000, 28, 28), np.uint8), np.zeros(5_000, np.uint8))
    with pytest.raises(DataError, match="holds 5000 training images, and validation alone takes the last 5000"):
        training_images("mnist", tmp_path)
    for content in (b"", b"1" * 3074):
        (tmp_path / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=rf"has {len(content)} bytes, no multiple of 3073"):
            held_out_images("cifar10", tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes([10] * 3073))
    with pytest.raises(DataError, match="holds a label 10: CIFAR-10 has the classes 0 to 9"):
        held_out_images("cifar10", tmp_path)


def test_label_file_names_a_modified_copy(tmp_path: Path) -> None:
    assert label_of("cifar10", tmp_path) == "cifar10"
    (tmp_path / "label.txt").write_text("")
    assert label_of("cifar10", tmp_path) == "cifar10"
    (tmp_path / "label.txt").write_text("CIFAR-10, JPEG q75\nmore\n")
    assert label_of("cifar10", tmp_path) == "CIFAR-10, JPEG q75"
    (tmp_path / "label.txt").write_bytes(b"\xef\xbb\xbfCIFAR-10, JPEG q75\r\n")
    assert label_of("cifar10", tmp_path) == "CIFAR-10, JPEG q75"
    (tmp_path / "label.txt").write_bytes("CIFAR-10, JPEG q75".encode("utf-16"))
    with pytest.raises(DataError, match=r"label\.txt is UTF-16, not UTF-8 text"):
        label_of("cifar10", tmp_path)


def test_the_real_digits() -> None:
    path = Path(os.environ.get("DNI_MNIST", Path(__file__).parents[4] / "shared/data/mnist"))
    if not path.is_dir():
        pytest.skip(f"MNIST is not in {path}: name its folder in DNI_MNIST")
    train, valid = training_images("mnist", path)
    assert (len(train.labels), len(valid.labels)) == (55_000, 5_000)
    scale = Scale.of(train.pixels)
    assert (scale.mean / 255).item() == pytest.approx(0.1307, abs=1e-3)  # the known figures of all 60,000
    assert (scale.deviation / 255).item() == pytest.approx(0.3081, abs=1e-3)


def test_the_real_pictures() -> None:
    path = Path(os.environ.get("DNI_CIFAR10", "/no/such/folder"))
    if not path.is_dir():
        pytest.skip(f"CIFAR-10 is not in {path}: name its folder in DNI_CIFAR10")
    train, valid = training_images("cifar10", path)
    assert (len(train.labels), len(valid.labels), len(held_out_images("cifar10", path).labels)) == (
        45_000,
        5_000,
        10_000,
    )
    mean = (Scale.of(train.pixels).mean / 255).flatten().tolist()
    assert mean == pytest.approx([0.4914, 0.4822, 0.4465], abs=3e-3)  # the known figures of all 50,000
