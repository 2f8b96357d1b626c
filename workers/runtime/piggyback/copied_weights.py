"""Weights of later layers, for the heads of earlier stages that copy them.

Every few steps a stage sends the weights of its copied layers with the reply to the step, as they were in its forward
pass. A stage that has a head averages them into its copies when it takes the reply, and passes on with its next reply
what earlier stages need. With a lag a copy arrives at a fixed step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_settings import CopiedHead
from dni.stages.base import Stage
from workers.build.heads.copies import copied_weights
from workers.comm.contents import Rows, TensorSpec
from workers.comm.edge import Target
from workers.comm.frame import Frame, Kind
from workers.comm.roles import frame_name, frame_tensors, value_in
from workers.config.settings import Config
from workers.runtime.piggyback.base import Piggyback, Tensors

#: Role of a weight.
COPIED = "copied"


def copied_specs(config: Config, index: int) -> dict[str, TensorSpec]:
    """Return the tensors that ride from stage `index` to the one before it."""
    weights = copied_weights(config, index).items()
    return {frame_name(COPIED, name): TensorSpec(tuple(each.shape), each.dtype, Rows.NONE) for name, each in weights}


class CopiedWeights(Piggyback):
    """The weights that one stage sends and passes on, and the heads at its cut that copy those of later stages.

    Args:
        stage: the stage.
        heads: the heads at its cut.
        wanted: names of the weights, of this stage and of later ones, that earlier stages copy.
        settings: how often a stage sends its own, and how they are averaged. The first copy of a run is not averaged.
    """

    name = "copied"

    def __init__(
        self, stage: Stage, heads: Sequence[CopiedLayers], wanted: Collection[str], settings: CopiedHead
    ) -> None:
        self.stage, self.heads, self.settings = stage, heads, settings
        trained = {name for name, _ in stage.module.named_parameters(remove_duplicate=False)}
        self.own, self.passing = [name for name in wanted if name in trained], {*wanted} - trained
        self._leaves = False  # with the next reply
        self._passed: Tensors = {}  # of later stages, for the previous one
        self._known: set[str] = set()  # weights of which a copy has arrived
        self._sent_bytes = 0

    def received(self, frame: Frame) -> None:
        self._leaves |= frame.kind is Kind.STEP and (frame.step - 1) % self.settings.copy_every == 0

    def returned(self, target: Target) -> None:
        values = value_in(COPIED, target.piggybacked or {})
        if not isinstance(values, dict):
            return
        new = {name: each for name, each in values.items() if name not in self._known}
        for head in self.heads:
            head.average(values, self.settings.momentum)
            head.average(new, 0.0)
        self._known |= values.keys()
        self._passed |= {name: each for name, each in values.items() if name in self.passing}

    def reply(self) -> Tensors:
        values, self._passed = self._passed, {}
        if self._leaves:
            self._leaves = False
            values |= {name: self.stage.module.get_parameter(name).detach().cpu() for name in self.own}
        self._sent_bytes += sum(each.nbytes for each in values.values())
        return frame_tensors(COPIED, values) if values else {}

    def figures(self) -> dict[str, Any]:
        return {"copied_bytes": self._sent_bytes} if self._sent_bytes else {}

    def state_dict(self) -> dict[str, Any]:
        return {"passed": self._passed, "known": sorted(self._known), "sent_bytes": self._sent_bytes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._passed, self._known, self._sent_bytes = state["passed"], {*state["known"]}, state["sent_bytes"]
