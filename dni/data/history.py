"""What was read up to the end of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.data.text import Window
from dni.types import IGNORED


class History:
    """The last H input symbols of every lane, from its sequence's start on; IGNORED before.

    Args:
        length: H; 0 keeps nothing.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.symbols: Tensor | None = None  #: (B, H), the newest last

    def beside(self, window: Window) -> Window:
        """Read a window; the same with the history after its labels: (B, T+L+H)."""
        if not self.length:
            return window
        if self.symbols is None:
            self.symbols = torch.full((len(window.inputs), self.length), IGNORED)
        before = self.symbols.masked_fill(window.reset.unsqueeze(-1), IGNORED)
        self.symbols = torch.cat([before, window.inputs], dim=1)[:, -self.length :]
        return window._replace(labels=torch.cat([window.labels, self.symbols], dim=1))
