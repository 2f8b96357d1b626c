"""What a stage reads from the frame of a window."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.named_tensors import Value
from workers.comm.frame import Frame
from workers.comm.roles import VALUE, value_in


def split(frame: Frame, device: torch.device) -> tuple[Value, Tensor, Tensor]:
    """Return the value, its labels (B, T) or (B,), and the context of the time cut (`PastWindow`).

    Labels of a local objective come first and are not passed on.
    """
    labels = frame.tensors["labels"].to(device)
    local = frame.tensors.pop("local_labels", None)
    context = frame.tensors.get("context", labels.new_empty(len(labels), 0))
    labels = labels if local is None else torch.cat([local.to(device), labels], dim=1)
    return value_in(VALUE, frame.tensors), labels, context.to(device)
