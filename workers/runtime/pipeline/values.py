"""The tensors that cross the cuts of a pipeline: their names, shapes and element types, known before a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dni.errors import WrongTensor
from dni.named_tensors import UNNAMED, Value, batch_of, map_tensors, named
from workers.build.model import build_chains
from workers.comm.contents import expect
from workers.comm.roles import VALUE, frame_name
from workers.config.settings import Config

#: Names of the tensors of a value, each with a tensor of the meta device that has its shape and element type. The order
#: is that in which the tensors are sent. Of a single tensor the name is "".
Specs = Mapping[str, Tensor]


def specs_of(config: Config, value: Value, *, traced: bool = False) -> list[Specs]:
    """Return the specs of the model's input `value`, and of the output of every part for that input.

    Unless the model is traced, no weights are allocated.
    """
    device = torch.device("cpu" if traced else "meta")  # a trace has tensors of the CPU in it
    x: Value = map_tensors(lambda each: torch.zeros(each.shape, dtype=each.dtype, device=device), value)
    found, batch = [_specs(x)], batch_of(x)
    with device, torch.no_grad(), torch.random.fork_rng(devices=[]):
        for chain in build_chains(config):
            x, _ = chain.eval()(x, chain.initial_state(batch))
            found.append(_specs(x))
    return found


def fits(specs: Specs, value: Value) -> bool:
    """Return whether a value has these names and shapes."""
    shapes = {name: each.shape for name, each in named(value).items()}
    return shapes == {name: each.shape for name, each in specs.items()}


def in_order(specs: Specs, value: Value, where: str) -> list[Tensor]:
    """Return the tensors of a value in the order of its specs. Raises WrongTensor for a value that has others."""
    tensors = named(value)
    if tensors.keys() != specs.keys():
        raise WrongTensor(
            f"{where} has the tensors {', '.join(sorted(tensors))}, and in evaluation it has {', '.join(sorted(specs))}"
        )
    for name, spec in specs.items():
        expect(frame_name(VALUE, name), tensors[name], spec.shape, spec.dtype, f"in {where}; in evaluation it is")
    return [tensors[name] for name in specs]


def as_value(specs: Iterable[str], tensors: Sequence[Tensor]) -> Value:
    """Return the value with these tensors: the inverse of `in_order`."""
    value = dict(zip(specs, tensors, strict=True))
    return value.get(UNNAMED, value)


def split_rows(value: Value, size: int) -> list[Value]:
    """Return a value's rows in parts of so many rows."""
    parts = {name: torch.split(each, size) for name, each in named(value).items()}
    return [as_value(parts, some) for some in zip(*parts.values(), strict=True)]


def as_bytes(tensor: Tensor) -> Tensor:
    """Return a contiguous tensor as it is sent: integers and bools as bytes, of which every backend can send all."""
    return tensor if tensor.is_floating_point() else tensor.reshape(-1).view(torch.uint8)


def send_value(value: Value, specs: Specs, rank: int, tag: int, where: str) -> None:
    """Send a value to another stage, outside of a training step."""
    for each in in_order(specs, value, where):
        dist.send(as_bytes(each.contiguous()), rank, tag=tag)


def receive_value(specs: Specs, rank: int, tag: int, device: torch.device) -> Value:
    """Receive what another stage sends by `send_value`."""
    tensors = [torch.empty(each.shape, dtype=each.dtype, device=device) for each in specs.values()]
    for each in tensors:
        dist.recv(as_bytes(each), rank, tag=tag)
    return as_value(specs, tensors)


def _specs(value: Value) -> Specs:
    return {name: torch.empty(each.shape, dtype=each.dtype, device="meta") for name, each in named(value).items()}
