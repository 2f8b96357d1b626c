"""Two recurrent networks; the second one reads only messages of the first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from dni.errors import ConfigError
from dni.models.base import Model, ModelContext
from dni.models.recurrent import LSTM
from dni.ranges import one_or_more
from dni.recurrent import Chain
from dni.types import Inputs


class LastStep(nn.Module):
    """(B, T, D) -> (B, 1, D), the last step alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -1:].contiguous()


@dataclass
class TwoClocks(Model):
    """Vectors (B, T, D) -> scores (B, 1, V) at the end of the window.

    Network A is `encoder` (linear and relu), `lstm_a` and `message`: its output at the last step is the message.
    Network B is `lstm_b`, which reads a message as one step, and `softmax` (a linear layer).
    """

    units: int = one_or_more(128)  # [units] of a hidden layer

    name: ClassVar[str] = "two_clocks"
    reads: ClassVar[Inputs | None] = Inputs.vectors
    carries_state: ClassVar[bool] = True
    one_answer: ClassVar[bool] = True

    def build(self, context: ModelContext) -> Chain:
        (inputs,) = context.input_shape
        layers: dict[str, nn.Module] = {
            "encoder": nn.Sequential(nn.Linear(inputs, self.units), nn.ReLU()),
            "lstm_a": LSTM(self.units, self.units),
            "message": LastStep(),
            "lstm_b": LSTM(self.units, self.units),
            "softmax": nn.Linear(self.units, context.symbols),
        }
        return Chain(OrderedDict(layers))

    def check(self, run: Any) -> None:
        super().check(run)
        if run.stages < 2 or self.split_points[:1] != ["lstm_b"]:
            raise ConfigError(
                f"model=two_clocks needs network A alone in the first of two or more stages, not stages={run.stages} "
                f"model.split_points=[{','.join(self.split_points)}]: set stages=2 model.split_points=[lstm_b]"
            )
