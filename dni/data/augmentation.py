"""Random changes of training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Mirror and shift images (B, C, H, W) at random, each by itself, drawn from (seed, batch).

    Args:
        seed: of the draws.
        flip: mirror every second image, left to right.
        crop_padding: pixels of zeros around an image, of which a crop at a random place has the size of the image.
    """

    seed: int
    flip: bool = False
    crop_padding: int = 0

    def __call__(self, pixels: Tensor, batch: int) -> Tensor:
        """Return the changed images of a batch; the given ones stay as they are."""
        count, _, height, width = pixels.shape
        draws = np.random.default_rng((self.seed, batch, 2))  # 2: apart from the draws of the noise
        mirrored = torch.from_numpy(draws.random(count) < 0.5)
        corners = draws.integers(0, 2 * self.crop_padding + 1, (count, 2)).tolist()
        if self.flip:
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
        if not self.crop_padding:
            return pixels
        padded = functional.pad(pixels, [self.crop_padding] * 4)
        crops = [each[:, y : y + height, x : x + width] for each, (y, x) in zip(padded, corners, strict=True)]
        return torch.stack(crops)
