"""An edge between two stages, over any transport, and frames that belong there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from workers.comm.contents import Contents, TensorSpec
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import LocalEnd
from workers.comm.upstream import Upstream

B, T, D, V, C = 3, 2, 5, 7, 4

TEXT = Contents({"": TensorSpec((D,), torch.float32)}, B, V, steps=T, context=C, context_symbols=6)
IMAGES = Contents({"": TensorSpec((2, 4, 4), torch.float32)}, B, V, steps=1, sequences=False, smaller=True)
CLOCKS = Contents({"": TensorSpec((D,), torch.float32)}, B, V, one_label=True, every=2, numbered=True)

NO = torch.zeros(B, dtype=torch.bool)
NUMBER = torch.tensor(1)


def step() -> dict[str, Tensor]:
    labels = torch.tensor([[0, V - 1], [-1, 3], [2, 2]])
    context = torch.tensor([[-1, 5, 0, 0]] * B)
    return {"value": torch.zeros(B, T, D), "labels": labels, "reset": NO, "done": NO, "context": context}


def probe() -> dict[str, Tensor]:
    streams = torch.zeros(B, 3, dtype=torch.long)
    context = torch.zeros(2, B, C, dtype=torch.long)
    return {"value": torch.zeros(B, 3, D), "labels": streams, "context": context, "windows": torch.tensor([2, 1])}


def images(batch: int = B) -> dict[str, Tensor]:
    each = torch.ones(batch, dtype=torch.bool)
    value, labels = torch.zeros(batch, 2, 4, 4), torch.zeros(batch, dtype=torch.long)
    return {"value": value, "labels": labels, "reset": each, "done": each}


def evaluated() -> dict[str, Tensor]:
    return {name: tensor for name, tensor in step().items() if name != "context"}


def window() -> dict[str, Tensor]:
    """Of two clocks: one label, for any number of steps."""
    return {"value": torch.zeros(B, 9, D), "labels": torch.zeros(B, 1, dtype=torch.long), "reset": NO, "done": NO}


def edge(ends: tuple[ChannelEnd, ChannelEnd]) -> tuple[Downstream, Upstream]:
    down = Downstream(ends[0], stage=0, window=8, clock=WaitTime(), timeout_s=10)
    return down, Upstream(ends[1], stage=1, clock=WaitTime(), timeout_s=10, contents=TEXT)


def changed(monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str, steps: set[int]) -> None:
    """Every link in memory shortens this tensor in the frames of one kind at some steps."""
    send = LocalEnd.send

    def instead(end: LocalEnd, frame: Frame) -> None:
        if frame.kind is kind and frame.step in steps:
            frame = replace(frame, tensors={**frame.tensors, name: frame.tensors[name][..., :1]})
        send(end, frame)

    monkeypatch.setattr(LocalEnd, "send", instead)
