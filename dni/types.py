"""Names and shape letters used everywhere.

Shape letters: B batch, T steps of a window, D features, V vocabulary, K stages, L labels after the window, H inputs
before its end, M windows of a horizon.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor

#: The recurrent state that a layer or stage carries from window to window. Every tensor has B in dimension -2. Empty
#: for a stateless layer or stage.
State = tuple[Tensor, ...]

#: The label of a position without loss and gradient (`ignore_index` of the cross-entropy).
IGNORED = -1

#: The kinds of network inputs: int64 symbols (B, T); float32 images (B, C, H, W); float32 vectors (B, T, D), or (B, D)
#: for examples without time; a dict of named tensors.
Inputs = enum.Enum("Inputs", ["symbols", "images", "vectors", "named"])


@dataclass(frozen=True)
class StagePlace:
    """The place of a stage in the network."""

    index: int  #: from 0
    stages: int  #: K, number of stages; of parts of the model where a stage has several

    @property
    def last(self) -> bool:
        """Whether it is the last one."""
        return self.index == self.stages - 1
