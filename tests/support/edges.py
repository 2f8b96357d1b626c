"""An edge between two stages over any transport, and valid tensors for its frames."""

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
MULTI_RATE = Contents({"": TensorSpec((D,), torch.float32)}, B, V, one_label=True, every=2, numbered=True)

ALL_FALSE = torch.zeros(B, dtype=torch.bool)
SCALAR = torch.tensor(1)


def step() -> dict[str, Tensor]:
    """Return the tensors of a training step."""
    labels = torch.tensor([[0, V - 1], [-1, 3], [2, 2]])
    context = torch.tensor([[-1, 5, 0, 0]] * B)
    return {"value": torch.zeros(B, T, D), "labels": labels, "reset": ALL_FALSE, "done": ALL_FALSE, "context": context}


def probe() -> dict[str, Tensor]:
    """Return the tensors of a probe."""
    streams = torch.zeros(B, 3, dtype=torch.long)
    context = torch.zeros(2, B, C, dtype=torch.long)
    return {"value": torch.zeros(B, 3, D), "labels": streams, "context": context, "windows": torch.tensor([2, 1])}


def images(batch: int = B) -> dict[str, Tensor]:
    """Return the tensors of a batch of images."""
    each = torch.ones(batch, dtype=torch.bool)
    value, labels = torch.zeros(batch, 2, 4, 4), torch.zeros(batch, dtype=torch.long)
    return {"value": value, "labels": labels, "reset": each, "done": each}


def evaluated() -> dict[str, Tensor]:
    """Return the tensors of a validation window."""
    return {name: tensor for name, tensor in step().items() if name != "context"}


def window() -> dict[str, Tensor]:
    """Return the tensors of a multi-rate stage: one label for any number of time steps."""
    return {
        "value": torch.zeros(B, 9, D),
        "labels": torch.zeros(B, 1, dtype=torch.long),
        "reset": ALL_FALSE,
        "done": ALL_FALSE,
    }


def edge(ends: tuple[ChannelEnd, ChannelEnd]) -> tuple[Downstream, Upstream]:
    """Return the two sides of an edge over these channel ends."""
    down = Downstream(ends[0], stage=0, window=8, clock=WaitTime(), timeout_s=10)
    return down, Upstream(ends[1], stage=1, clock=WaitTime(), timeout_s=10, contents=TEXT)


def shorten_tensor(monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str, steps: set[int]) -> None:
    """Make every local link shorten the tensor `name` in frames of `kind` at `steps`."""
    send = LocalEnd.send

    def send_shortened(end: LocalEnd, frame: Frame) -> None:
        if frame.kind is kind and frame.step in steps:
            frame = replace(frame, tensors={**frame.tensors, name: frame.tensors[name][..., :1]})
        send(end, frame)

    monkeypatch.setattr(LocalEnd, "send", send_shortened)
