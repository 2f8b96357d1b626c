"""Functions of a user that return data sets of torch, and a model for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from dni.models import ModelContext

#: Items of each part.
SIZES = {"train": 22, "valid": 10, "test": 7}

Example = tuple[Tensor, int]


def points(split: str) -> list[Example]:
    """Return items (3 numbers, one of 4 classes): the class is the place of the largest number, 3 if all are small."""
    drawn = torch.randn(SIZES[split], 3, generator=torch.Generator().manual_seed(len(split)))
    return [(x, 3 if float(x.max()) < 0.3 else int(x.argmax())) for x in drawn]


class Noisy(Dataset[Example]):
    """Points with noise that every read draws anew, from torch's random state."""

    num_classes = 4

    def __init__(self, split: str, noise: float) -> None:
        self.points, self.noise = points(split), noise

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, n: int) -> Example:
        x, label = self.points[n]
        return x + self.noise * torch.randn(3), label


class Stream(IterableDataset[Example]):
    """Points in order, with noise; without end if asked."""

    classes: Sequence[str] = ("a", "b", "c", "d")

    def __init__(self, split: str, endless: bool = False) -> None:
        self.points, self.endless = points(split), endless

    def __iter__(self) -> Iterator[Example]:
        yield from ((x + 0.1 * torch.randn(3), label) for x, label in self.points)
        if self.endless:
            yield from self

    def __len__(self) -> int:
        if self.endless:
            raise TypeError("it has no end")
        return len(self.points)


class Placed(IterableDataset[Example]):
    """Points with a state: reads on from its own place."""

    num_classes = 4

    def __init__(self, split: str) -> None:
        self.points, self.place, self.read = points(split), 0, 0

    def __iter__(self) -> Iterator[Example]:
        while self.place < len(self.points):
            self.place, self.read = self.place + 1, self.read + 1
            yield self.points[self.place - 1]
        self.place = 0

    def __len__(self) -> int:
        return len(self.points)

    def state_dict(self) -> dict[str, int]:
        return {"place": self.place}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.place = state["place"]


def mapped(split: str, noise: float = 0.1) -> Noisy:
    return Noisy(split, noise)


def streamed(split: str) -> Stream:
    return Stream(split)


def endless(split: str) -> Stream:
    return Stream(split, endless=True)


def placed(split: str) -> Placed:
    return Placed(split)


def loaded(split: str, size: int = 4) -> DataLoader[Any]:
    return DataLoader(Noisy(split, 0.1), batch_size=size, shuffle=split == "train")


def stateful(split: str) -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader  # of an extra

    return StatefulDataLoader(Noisy(split, 0.0), batch_size=4, shuffle=split == "train")


def without_parts(split: str) -> Noisy | None:
    return Noisy(split, 0.0) if split == "train" else None


def own(split: str, wrong: str = "") -> Any:
    """Return items of which number 5 is wrong."""
    items: list[Any] = [(x, label) for x, label in points(split)]
    items[5] = {
        "label": (items[5][0], 9), "size": (torch.zeros(5), 1), "type": (torch.zeros(3, dtype=torch.int64), 1),
        "one": (items[5][0],), "text": ("a", 1), "named": ({"x": items[5][0]}, 1),
    }.get(wrong, items[5])  # fmt: skip
    return items if wrong != "error" else items[1000]


def iterator(split: str) -> Any:
    return iter(points(split))


def network(context: ModelContext, width: int = 8) -> list[nn.Module]:
    (size,) = context.input_shape
    return [nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, context.symbols)]
