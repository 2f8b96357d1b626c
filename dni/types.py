"""Names and shape letters used everywhere.

Shape letters: B batch, T steps of a window, D features, V vocabulary, K stages, L labels after the window, H inputs
before its end, M windows of a horizon.
"""

from __future__ import annotations

import enum

from torch import Tensor

#: What a recurrent layer or stage carries from window to window; every tensor has B in dimension -2. Empty: stateless.
State = tuple[Tensor, ...]

#: A label that counts for nothing: no loss, no gradient (`ignore_index` of the cross-entropy).
IGNORED = -1

#: What the inputs of a network are: int64 symbols (B, T); float32 images (B, C, H, W); float32 vectors (B, T, D), or
#: (B, D) of examples that are no sequences.
Inputs = enum.Enum("Inputs", ["symbols", "images", "vectors"])
