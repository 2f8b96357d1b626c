"""The tensors of a frame as bytes: what describes them in the header, and their memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dni.errors import BadShape, UnknownDtype
from workers import stage_pb2

_MOST_DIMENSIONS = 64  # torch's own limit

DTYPES: dict[torch.dtype, int] = {
    torch.float32: stage_pb2.DTYPE_FLOAT32,
    torch.float64: stage_pb2.DTYPE_FLOAT64,
    torch.float16: stage_pb2.DTYPE_FLOAT16,
    torch.bfloat16: stage_pb2.DTYPE_BFLOAT16,
    torch.int8: stage_pb2.DTYPE_INT8,
    torch.int16: stage_pb2.DTYPE_INT16,
    torch.int32: stage_pb2.DTYPE_INT32,
    torch.int64: stage_pb2.DTYPE_INT64,
    torch.uint8: stage_pb2.DTYPE_UINT8,
    torch.bool: stage_pb2.DTYPE_BOOL,
}
TORCH_DTYPES = {code: dtype for dtype, code in DTYPES.items()}


def describe(header: stage_pb2.Header, name: str, tensor: Tensor) -> None:
    """Add a tensor to the header. Raises UnknownDtype for an element type the wire does not know."""
    code = DTYPES.get(tensor.dtype)
    if code is None:
        raise UnknownDtype(f"tensor {name!r} is {tensor.dtype}; convert it to one of {[*DTYPES]}")
    header.tensors.add(name=name, dtype=code, shape=tensor.shape)


def read_spec(spec: stage_pb2.TensorSpec, limit: int) -> tuple[str, torch.dtype, list[int], int]:
    """A tensor's name, dtype, shape and byte count. Raises UnknownDtype, or BadShape for more than `limit` bytes."""
    dtype, shape = TORCH_DTYPES.get(spec.dtype), list(spec.shape)
    if dtype is None:
        raise UnknownDtype(f"tensor {spec.name!r} has element type {spec.dtype}, unknown here")
    nbytes = math.prod(shape) * dtype.itemsize
    strides = nbytes or math.prod(size or 1 for size in shape)  # an empty tensor's strides, too, must fit into 64 bits
    if min(shape, default=0) < 0 or nbytes > limit or strides >= 2**60 or len(shape) > _MOST_DIMENSIONS:
        raise BadShape(f"tensor {spec.name!r} has shape {tuple(shape[:9])}; the limit is {limit} bytes")
    return spec.name, dtype, shape, nbytes


def memory(tensor: Tensor) -> Any:
    """A tensor's bytes as a flat array of uint8: its own memory if it is contiguous and on the CPU.

    Most calls into torch let go of the interpreter's lock, for which the threads of a link are waiting: few are made.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if not (tensor.is_cpu and tensor.is_contiguous()):
        tensor = tensor.cpu().contiguous()
    return _flat(tensor)


def restore(data: Any, offset: int, dtype: torch.dtype, shape: list[int], nbytes: int) -> Tensor:
    """A tensor with memory of its own from the bytes of `data` at an offset."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    _flat(tensor)[:] = np.frombuffer(data, np.uint8, nbytes, offset)
    return tensor


def _flat(tensor: Tensor) -> Any:
    if tensor.dtype is torch.bfloat16:  # which numpy does not know
        tensor = tensor.view(torch.int16)
    return tensor.numpy().reshape(-1).view(np.uint8)
