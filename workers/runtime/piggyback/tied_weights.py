"""Tied weights: one stage owns a parameter, and others use replicas of it.

The owner's value rides downstream with the first frame after it has changed. The replicas' gradients ride upstream with
the replies and are summed on the way, so that a stage holds one sum per parameter. The owner adds what has arrived to
its own gradient before its update. Where stages wait for the gradient of every step, that is the replicas' gradient of
the same step; elsewhere it is late by a few steps, and the last ones of a run are not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dni.errors import WrongTensor
from dni.stages.base import Stage
from dni.stages.tied import Tied
from workers.comm.contents import Rows, TensorSpec
from workers.comm.edge import Target
from workers.comm.frame import Frame
from workers.comm.roles import frame_name, frame_tensors, value_in, without
from workers.runtime.piggyback.base import Piggyback, Tensors

#: Roles of a parameter's value or gradient, and of (number, sum of steps) of the gradients in a sum.
TIED, STEPS = "tied", "tied_steps"


def tied_specs(ties: Sequence[Tied], index: int) -> dict[str, TensorSpec]:
    """Return the tensors that ride between the stages `index` - 1 and `index`, in either direction."""
    crossing = [each for each in ties if each.owner < index <= max(each.names)]
    values = {each.name: TensorSpec(tuple(each.parameter.shape), each.parameter.dtype, Rows.NONE) for each in crossing}
    steps = {each.name: TensorSpec((2,), torch.int64, Rows.NONE) for each in crossing}
    roles = ((TIED, values), (STEPS, steps))
    return {frame_name(role, name): spec for role, specs in roles for name, spec in specs.items()}


class GradientSum(NamedTuple):
    """Gradients of a replica on their way to the owner."""

    total: Tensor  #: on the CPU
    steps: Tensor  #: (2,) int64: their number, and the sum of their steps

    def plus(self, earlier: GradientSum | None) -> GradientSum:
        """Return the sum of both."""
        return self if earlier is None else GradientSum(earlier.total + self.total, earlier.steps + self.steps)


class TiedWeights(Piggyback):
    """The tied weights of one stage: those that it owns or has a replica of, and those that pass through it.

    Args:
        stage: the stage.
        index: its index.
        ties: the parameters that several stages of the run share.
    """

    name = "tied"

    def __init__(self, stage: Stage, index: int, ties: Sequence[Tied]) -> None:
        self.stage = stage
        self.owned = {each.name for each in ties if each.owner == index}
        self.replicas = {each.name: each.names[index] for each in ties if index in each.names and each.owner != index}
        self.passing = {each.name for each in ties if max(each.names) > index}
        self.follows_update = bool(self.replicas)
        self._values: Tensors = {}  # for the next stage
        self._sent = -1  # number of optimizer steps when owned values were sent last
        self._sums: dict[str, GradientSum] = {}  # on their way to the owner, or there and not used yet
        self._used = torch.zeros(2, dtype=torch.int64)  # number of gradients that the owner has used, sum of delays

    def received(self, frame: Frame) -> None:
        values = value_in(TIED, frame.tensors)
        if not isinstance(values, dict):
            return
        frame.tensors = without(TIED, frame.tensors)
        if own := {self.replicas[name]: value for name, value in values.items() if name in self.replicas}:
            self.stage.set_replicas(own)
        self._values |= {name: values[name] for name in values if name in self.passing}

    def onward(self) -> Tensors:
        values, self._values = self._values, {}
        if self._sent != self.stage.moved:
            self._sent = self.stage.moved
            values |= {name: self.stage.module.get_parameter(name).detach().cpu() for name in self.owned}
        return frame_tensors(TIED, values) if values else {}

    def returned(self, target: Target) -> None:
        tensors = target.piggybacked or {}
        sums = value_in(TIED, tensors)
        for name, total in sums.items() if isinstance(sums, dict) else ():
            steps = tensors.get(frame_name(STEPS, name))
            if steps is None:
                raise WrongTensor(f"the reply to step {target.step} has a gradient of {name} without its steps")
            self._sums[name] = GradientSum(total, steps).plus(self._sums.get(name))

    def before_update(self, step: int, window: int, *, move: bool) -> None:
        for name in self.owned & self._sums.keys():
            arrived = self._sums.pop(name)
            if move:
                self._add(name, arrived, step)
        for name, own in self.replicas.items():
            parameter = self.stage.module.get_parameter(own)
            gradient, parameter.grad = parameter.grad, None
            if gradient is not None and move:
                found = GradientSum(gradient.cpu(), torch.tensor([1, window]))
                self._sums[name] = found.plus(self._sums.get(name))

    def reply(self) -> Tensors:
        leaving = {name: self._sums.pop(name) for name in [*self._sums] if name not in self.owned}
        totals = frame_tensors(TIED, {name: each.total for name, each in leaving.items()})
        return totals | frame_tensors(STEPS, {name: each.steps for name, each in leaving.items()})

    def figures(self) -> dict[str, Any]:
        count, delays = self._used.tolist()
        return {"tied_delay_steps": delays / count} if count else {}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": {name: list(each) for name, each in self._sums.items()}, "used": self._used}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: GradientSum(*each) for name, each in state["sums"].items()}
        self._used = state["used"]

    def _add(self, name: str, arrived: GradientSum, step: int) -> None:
        parameter = self.stage.module.get_parameter(name)
        gradient = arrived.total.to(parameter.device)
        parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        count, steps = arrived.steps.tolist()
        self._used = self._used + torch.tensor([count, count * step - steps])
