"""dni/data/history.py: the last inputs of every stream."""

from __future__ import annotations

import torch

from dni.data.history import History
from dni.data.window import Window
from dni.types import IGNORED

X = IGNORED


def window(inputs: list[list[int]], reset: list[bool]) -> Window:
    streams = torch.tensor(inputs)
    return Window(streams, streams + 50, torch.tensor(reset), torch.tensor([False, False]))


def test_it_holds_the_newest_symbols_of_a_sequence() -> None:
    history = History(3)
    assert history.read(window([[1, 2], [6, 7]], [True, True])).tolist() == [[X, 1, 2], [X, 6, 7]]
    assert history.read(window([[3, 4], [8, 9]], [False, True])).tolist() == [[2, 3, 4], [X, 8, 9]]
