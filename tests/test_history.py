"""What was read up to the end of a window."""

from __future__ import annotations

import torch

from dni.data.history import History
from dni.data.text import Window
from dni.types import IGNORED

X = IGNORED


def window(inputs: list[list[int]], reset: list[bool]) -> Window:
    lanes = torch.tensor(inputs)
    return Window(lanes, lanes + 50, torch.tensor(reset), torch.tensor([False, False]))


def test_it_holds_the_newest_symbols_of_a_sequence() -> None:
    history = History(3)
    first = history.beside(window([[1, 2], [6, 7]], [True, True]))
    assert first.labels.tolist() == [[51, 52, X, 1, 2], [56, 57, X, 6, 7]]
    second = history.beside(window([[3, 4], [8, 9]], [False, True]))
    assert second.labels[:, 2:].tolist() == [[2, 3, 4], [X, 8, 9]]
    assert second.inputs.tolist() == [[3, 4], [8, 9]]


def test_of_no_length_it_changes_nothing() -> None:
    given = window([[1], [2]], [True, True])
    assert History(0).beside(given) is given
