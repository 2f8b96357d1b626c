"""What was read up to the end of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.data.window import Window
from dni.types import IGNORED


class History:
    """The last H inputs of every stream, from its sequence's start on; IGNORED before.

    Args:
        length: H.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.symbols: Tensor | None = None  #: (B, H), the newest last

    def read(self, window: Window) -> Tensor:
        """The history with a window's inputs in it: (B, H), the newest last."""
        if self.symbols is None:
            self.symbols = torch.full((len(window.inputs), self.length), IGNORED)
        before = self.symbols.masked_fill(window.reset.unsqueeze(-1), IGNORED)
        self.symbols = torch.cat([before, window.inputs], dim=1)[:, -self.length :]
        return self.symbols
