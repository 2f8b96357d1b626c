"""What every model offers: an ordered row of layers, built from the facts of the data, and what the rules ask of it."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from dni.errors import ConfigError
from dni.plugin import Named
from dni.ranges import below_one, one_or_more
from dni.types import Inputs

InitKind = enum.Enum("InitKind", ["default", "xavier", "he"])

#: Options of the package with these inputs, for messages.
_DATA = {Inputs.symbols: "data=text", Inputs.images: "data=mnist"}
_MODELS = {Inputs.symbols: "model=lstm", Inputs.images: "model=cnn"}


@dataclass(frozen=True)
class ModelContext:
    """What a model is built for."""

    symbols: int  #: V, how many labels there are: the numbers that the last layer gives for each
    input_symbols: int = 0  #: symbols that are inputs: rows of an embedding; 0: inputs are numbers
    input_shape: tuple[int, ...] = ()  #: of one example, (C, H, W) of an image, or of one step, (D,); () of symbols
    numbers: bool = False  #: labels are numbers, `symbols` of them a row, and not classes

    @property
    def last_layer(self) -> str:
        """The name of a linear layer that answers."""
        return "output" if self.numbers else "softmax"


@dataclass
class Model(Named, ABC):
    """Base class of the models.

    A model of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of the
    section `model`, with those below. `build` is all that it must have.
    """

    init: InitKind = InitKind.default  # of the weights of maps, with zero biases; default: torch's own, biases too
    split_points: list[str] = field(default_factory=list)  # first layer of every stage but the first; empty: by balance
    symbols: int | None = None  # [symbols] V, how many labels there are; filled in from the data
    input_symbols: int | None = None  # [symbols] rows of the embedding; filled in from the data
    input_shape: list[int] | None = None  # [numbers] of an image its channels, height and width, of a vector its size;
    # null: of symbols; filled in from the data

    #: What it reads; None: whatever there is.
    reads: ClassVar[Inputs | None] = None

    #: It reads sequences of vectors (B, T, D) as well, through a linear layer.
    reads_vectors: ClassVar[bool] = False

    #: Some of its layers are `dni.Recurrent`, so that gradients may be cut in time.
    carries_state: ClassVar[bool] = False

    #: It gives one answer a window, at its end, and not one at every step.
    one_answer: ClassVar[bool] = False

    #: It has batch norm, which needs two examples or more.
    batch_norm: ClassVar[bool] = False

    #: Between its layers there are feature maps (C, H, W).
    feature_maps: ClassVar[bool] = False

    @abstractmethod
    def build(self, context: ModelContext) -> nn.Module:
        """An `nn.Sequential` (or `dni.Chain`) of named layers, between any two of which it may be cut.

        Its inputs are those that `dni.data.Window` describes; it gives scores (B, T, V), of examples (B, V);
        in regression numbers (B, T, O).
        """

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that do not go with it."""
        data = run.data
        vectors = data.gives is Inputs.vectors and data.sequences and not data.one_label
        if self.reads not in (None, data.gives) and not (self.reads_vectors and vectors):
            assert self.reads is not None
            raise ConfigError(
                f"model={self.name} reads {self.reads.name}, and data={data.name} gives {data.gives.name}: use "
                f"{_DATA.get(self.reads, 'other data')} or {_MODELS.get(data.gives, 'another model')}, say"
            )
        if self.one_answer != data.one_label:
            label, answer = ("once a window" if once else "at every step" for once in (data.one_label, self.one_answer))
            raise ConfigError(
                f"data={data.name} has labels {label}, and model={self.name} answers {answer}: use other data or "
                "another model"
            )
        if self.batch_norm and data.batch == 1:
            raise ConfigError(
                f"data.batch=1: model={self.name} has batch norm, which needs a batch: set data.batch=64, say"
            )


@dataclass
class Layered(Model):
    """A model of equal hidden layers."""

    units: int = one_or_more(128)  # [units] of a hidden layer; cnn, resnet: channels of the first layer
    layers: int = one_or_more(3)  # [layers] hidden ones; resnet: blocks of each of its three widths
    dropout: float = below_one(0.0)  # [share] set to zero in training: between recurrent layers, after the hidden
    # layers of mlp and mlp_bn, before the softmax layer of cnn and resnet, inside transformer layers; every stage draws
    # its own
