"""Complete unlock: stages predict their inputs as well as their gradients (Jaderberg et al. 2017, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from dni.errors import ConfigError
from dni.experimental.synthetic_input_interface import (
    SyntheticInputInterface,
    flat_inputs,
    sequence_inputs,
    symbol_inputs,
)
from dni.interfaces.input import InputInterface
from dni.methods.cut import InputContext
from dni.methods.synthetic import Synthetic
from dni.plugin import RunContext
from dni.ranges import zero_or_more
from dni.recurrent import Chain

#: Largest model of inputs; with Adam's moments and the gradient each weight takes 16 bytes.
MOST_WEIGHTS = 2**24


@dataclass
class SyntheticInputs(Synthetic):
    """Synthetic gradients and synthetic inputs: a later stage predicts its input from the data."""

    input_hidden: int = zero_or_more(128)  # [units] of the hidden layer, 0: linear; of the GRU if an earlier stage
    # carries state
    input_learning_rate: float = zero_or_more(1e-2)  # [rate] of its Adam; for perceptrons on images take 1e-3, or
    # their units die

    name: ClassVar[str] = "synthetic_inputs"
    named_tensors: ClassVar[bool] = False
    predicts_inputs: ClassVar[bool] = True
    takes_gaps: ClassVar[bool] = False

    def steps_ahead(self, stages: int) -> int:
        return self.max_in_flight * (stages - 1)

    def input_interface(self, cut: InputContext) -> InputInterface:
        module = self._model(cut).to(cut.device)
        optimizer = torch.optim.Adam(module.parameters(), self.input_learning_rate, fused=True)
        return SyntheticInputInterface(module, optimizer, memory=self.memory, device=cut.device)

    def check_input(self, cut: InputContext) -> None:
        with torch.device("meta"):  # only counted
            weights = sum(p.numel() for p in self._model(cut).parameters())
        if weights > MOST_WEIGHTS:
            raise ConfigError(
                f"depth.input_hidden={self.input_hidden} would make a model of {weights:,} weights for the inputs of "
                f"stage {cut.index}, more than {MOST_WEIGHTS:,}: set depth.input_hidden=128, say"
            )

    def check(self, run: RunContext) -> None:
        super().check(run)
        if run.data.grows:
            raise ConfigError(
                "with depth=synthetic_inputs every stage reads the data for itself, and the curriculum of "
                f"data={run.data.name} depends on losses that only the first stage receives: set data.length (or use "
                "depth=synthetic)"
            )
        if run.data.numbers:
            raise ConfigError(
                f"depth=synthetic_inputs predicts inputs from symbols or images, and data={run.data.name} has vectors: "
                "use depth=synthetic"
            )
        if not self.input_hidden and run.model.carries_state:
            raise ConfigError(
                "depth.input_hidden=0: a GRU predicts the outputs of stages that carry state: set "
                "depth.input_hidden=128, say"
            )

    def _model(self, cut: InputContext) -> Chain:
        if cut.data_shape is not None:
            return flat_inputs(math.prod(cut.data_shape), cut.shape, self.input_hidden)
        if cut.carries_state:
            return sequence_inputs(cut.symbols, cut.shape[0], self.input_hidden)
        return symbol_inputs(cut.symbols, cut.shape[0])
