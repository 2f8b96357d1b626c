"""Gradients clipped by their norm over all stages: `optimizer.clip_norm=global`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dni.stages.base import Stage
from dni.stages.clipping import Clipping, finite
from workers.comm.contents import Rows, TensorSpec
from workers.comm.edge import Target
from workers.comm.frame import Frame
from workers.runtime.piggyback.base import Piggyback, Tensors

#: Names in a frame: the norm of all stages, or of those on one side; the norms of single parameters.
NORM, NORMS = "norm", "norms"

NORM_SPEC = TensorSpec((), torch.float64, Rows.NONE)
NORMS_SPEC = TensorSpec((None,), torch.float64, Rows.NONE)


def norms_of(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return the gradient norm of each parameter that has a gradient (N,), on the CPU."""
    norms = torch._foreach_norm([each.grad for each in parameters if each.grad is not None])
    return torch.stack([norm.cpu() for norm in norms])


def scale(parameters: Sequence[nn.Parameter], largest: float, norm: float) -> None:
    """Scale gradients as `torch.nn.utils.clip_grad_norm_` does where their norm is this one."""
    found = [each for each in parameters if each.grad is not None]
    if found:
        total = torch.tensor(norm, dtype=found[0].dtype, device=found[0].device)
        nn.utils.clip_grads_with_norm_(found, largest, total)


class GlobalNorm(Clipping, Piggyback):
    """Clips by the norm of all stages, where each waits for the true gradient of every step.

    The norms of single parameters ride upstream with the reply to a step. The first stage takes their norm, in the
    order of the unsplit model, as `torch.nn.utils.clip_grad_norm_` does. It rides downstream with the next frame, and
    a later stage takes its optimizer step when that frame has come, before it handles the frame.

    Args:
        stage: the stage.
        index: its index.
        largest: the largest norm.
    """

    name = "norm"

    def __init__(self, stage: Stage, index: int, largest: float | None) -> None:
        super().__init__(largest)
        self.stage, self.first = stage, index == 0
        self.follows_update = not self.first
        self._norms: list[Tensor] = []  # of this stage and of later ones at this step
        self._total: float | None = None  # for the next stage
        self._waits = False

    def clip(self, parameters: Sequence[nn.Parameter]) -> float | None:
        own = norms_of(parameters)
        finite(own.sum().item())
        self._norms.insert(0, own)
        if not self.first:
            self._waits = True
            return None
        self._total = self._norm()
        scale(parameters, self.largest, self._total)
        return self._total

    def received(self, frame: Frame) -> None:
        total = frame.tensors.pop(NORM, None)
        if total is None:
            return
        self._total = total.item()
        if self._waits:
            self._waits = False
            scale([*self.stage.module.parameters()], self.largest, self._total)
            self.stage.finish_step(self._total)

    def onward(self) -> Tensors:
        if self.first and self._norms:  # this stage has not moved, and later ones have
            self._total = self._norm()
        total, self._total = self._total, None
        return {} if total is None else {NORM: torch.tensor(total, dtype=torch.float64)}

    def returned(self, target: Target) -> None:
        norms = (target.piggybacked or {}).get(NORMS)
        if norms is not None:
            self._norms.append(norms)

    def reply(self) -> Tensors:
        if self.first or not self._norms:
            return {}
        norms, self._norms = torch.cat([each.double() for each in self._norms]), []
        return {NORMS: norms}

    def _norm(self) -> float:
        norms, self._norms = torch.cat([each.double() for each in self._norms]), []
        return finite(torch.linalg.vector_norm(norms.to(_dtype(self.stage.module))).item())


class NewestNorms(Clipping, Piggyback):
    """Clips by the norm of this stage's gradient and of the newest known ones of the others, where no stage waits.

    The norm of this and all earlier stages rides downstream with every frame, that of this and all later ones upstream
    with every reply. A stage that has not been heard of counts as zero.

    Args:
        largest: the largest norm.
    """

    name = "norm"

    def __init__(self, largest: float | None) -> None:
        super().__init__(largest)
        self._own = self._earlier = self._later = 0.0

    def clip(self, parameters: Sequence[nn.Parameter]) -> float:
        self._own = finite(torch.linalg.vector_norm(norms_of(parameters)).item())
        total = math.hypot(self._own, self._earlier, self._later)
        scale(parameters, self.largest, total)
        return total

    def received(self, frame: Frame) -> None:
        if NORM in frame.tensors:
            self._earlier = frame.tensors.pop(NORM).item()

    def onward(self) -> Tensors:
        return {NORM: torch.tensor(math.hypot(self._own, self._earlier), dtype=torch.float64)}

    def returned(self, target: Target) -> None:
        if target.piggybacked and NORM in target.piggybacked:
            self._later = target.piggybacked[NORM].item()

    def reply(self) -> Tensors:
        return {NORM: torch.tensor(math.hypot(self._own, self._later), dtype=torch.float64)}

    def state_dict(self) -> dict[str, Any]:
        return {"own": self._own, "earlier": self._earlier, "later": self._later}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._own, self._earlier, self._later = state["own"], state["earlier"], state["later"]


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
