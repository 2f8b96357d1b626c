"""Random changes of training images."""

from __future__ import annotations

import torch

from dni.data.augmentation import Augmentation


def numbered(count: int = 400) -> torch.Tensor:
    """Return images (count, 2, 3, 4) whose pixels are all different and not zero."""
    return torch.arange(1, count * 24 + 1).view(count, 2, 3, 4)


def test_half_of_the_images_are_mirrored_left_to_right() -> None:
    images = numbered()
    changed = Augmentation(0, flip=True)(images, 3)
    mirrored = (changed == images[..., [3, 2, 1, 0]]).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert (mirrored ^ same).all()
    assert abs(mirrored.float().mean() - 0.5) < 4 * 0.5 / 400**0.5


def test_crops_are_shifted_by_at_most_the_padding_and_all_shifts_occur() -> None:
    images = numbered()
    changed = Augmentation(0, crop_padding=1)(images, 3)
    shifts = []
    for before, after in zip(images, changed, strict=True):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                expected = torch.zeros_like(before)
                rows = slice(max(0, down), 3 + min(0, down)), slice(max(0, -down), 3 + min(0, -down))
                columns = slice(max(0, right), 4 + min(0, right)), slice(max(0, -right), 4 + min(0, -right))
                expected[:, rows[0], columns[0]] = before[:, rows[1], columns[1]]
                shifts += [(down, right)] if torch.equal(after, expected) else []
    assert len(shifts) == 400
    assert min(shifts.count(shift) for shift in set(shifts)) > 20
    assert len(set(shifts)) == 9


def test_the_draws_are_those_of_the_seed_and_the_batch() -> None:
    images = numbered()

    def changed(seed: int, batch: int) -> torch.Tensor:
        return Augmentation(seed, flip=True, crop_padding=1)(images, batch)

    assert torch.equal(changed(0, 3), changed(0, 3))
    assert not torch.equal(changed(0, 3), changed(0, 4))
    assert not torch.equal(changed(0, 3), changed(1, 3))
    assert torch.equal(images, numbered())
