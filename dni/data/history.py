"""The last inputs of every stream, up to the end of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.data.window import Window
from dni.types import IGNORED


class History:
    """The last H inputs of every stream within its sequence; IGNORED before the start of the sequence.

    Args:
        length: H.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.symbols: Tensor | None = None  #: (B, H), the newest last

    def read(self, window: Window) -> Tensor:
        """Add a window's inputs and return the history: (B, H), the newest last."""
        if self.symbols is None:
            self.symbols = torch.full((len(window.inputs), self.length), IGNORED)
        before = self.symbols.masked_fill(window.reset.unsqueeze(-1), IGNORED)
        self.symbols = torch.cat([before, window.inputs], dim=1)[:, -self.length :]
        return self.symbols
