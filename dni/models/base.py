"""Base class of the models: an ordered sequence of layers, built for the data, with properties for the checks."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from torch import nn

from dni.errors import ConfigError
from dni.plugin import Named
from dni.ranges import below_one, one_or_more
from dni.types import Inputs

InitKind = enum.Enum("InitKind", ["default", "xavier", "he"])
SplitKind = enum.Enum("SplitKind", ["parameters", "measured"])
TiedKind = enum.Enum("TiedKind", ["refuse", "sum", "copy"])

#: Options with these inputs, for error messages.
_DATA = {Inputs.symbols: "data=text", Inputs.images: "data=mnist"}
_MODELS = {Inputs.symbols: "model=lstm", Inputs.images: "model=cnn"}


#: Layers in order, by name if it is a dict.
Parts: TypeAlias = Sequence[nn.Module] | Mapping[str, nn.Module]


@dataclass(frozen=True)
class ModelContext:
    """The sizes of the data that a model is built for."""

    symbols: int  #: V, number of classes of the labels, or O, numbers of one label; the size of the last layer
    input_symbols: int = 0  #: number of input symbols, which are rows of an embedding; 0: inputs are numbers
    input_shape: tuple[int, ...] = ()  #: (C, H, W) of an image, (D,) of an example or time step, () of symbols
    numbers: bool = False  #: labels are numbers, O for each row, instead of classes

    @property
    def last_layer(self) -> str:
        """The name of a linear layer at the end of a model."""
        return "output" if self.numbers else "softmax"


@dataclass
class Model(Named, ABC):
    """Base class of the models.

    To add a model, write a dataclass that subclasses this class, in a module of your own. Its fields, and those below,
    are the settings of the section `model`. Only `build` is required.
    """

    init: InitKind = InitKind.default  # first weights of linear, convolutional and recurrent layers, with zero biases;
    # default: torch's own (transformer: as GPT-2)
    split_points: list[str] = field(default_factory=list)  # names of the first layer of every stage but the first;
    # empty: as `split` says
    split: SplitKind = SplitKind.parameters  # how to split without split_points. parameters: about equally many in each
    # stage; measured: about equal times, measured on this machine before the stages start (dni-plan prints them)
    tied: TiedKind = TiedKind.refuse  # a parameter that several stages share. refuse: end with an error; sum: the first
    # of them trains it with the gradients of all, and sends its value to the others; copy: each trains its own
    symbols: int | None = None  # [symbols] V, number of classes of the labels; filled in from the data
    input_symbols: int | None = None  # [symbols] rows of the embedding; filled in from the data
    input_shape: list[int] | None = None  # [numbers] channels, height and width of an image, or size of a vector; null:
    # inputs are symbols; filled in from the data

    #: The kind of inputs; None: any.
    reads: ClassVar[Inputs | None] = None

    #: The model also reads sequences of vectors (B, T, D), through a linear layer.
    reads_vectors: ClassVar[bool] = False

    #: Some layers are `dni.Recurrent`, so that gradients can be cut in time.
    carries_state: ClassVar[bool] = False

    #: One output per window, at its end, instead of one at every step.
    one_answer: ClassVar[bool] = False

    #: The model has batch norm, which needs at least two examples.
    batch_norm: ClassVar[bool] = False

    #: The values between layers are feature maps (C, H, W).
    feature_maps: ClassVar[bool] = False

    @abstractmethod
    def build(self, context: ModelContext) -> nn.Module | Parts:
        """Return an `nn.Sequential` (or `dni.Chain`) of named layers, or a list or dict of parts, that can be cut
        between any two of them. Any other module is traced, and cut where its blocks begin.

        It takes the inputs that `dni.data.Window` describes, and returns scores (B, T, V), or (B, V) of examples; for
        regression it returns numbers (B, T, O).
        """

    def block(self, shape: tuple[int, ...], blocks: int) -> nn.Module | None:
        """Return new blocks like those of the model, for a predictor, from a value to one of the same shape.

        `shape` is that of a row, (D,) or (C, H, W). None: heads take copies of the nearest of the model's own layers
        that maps a value to one of its shape and consists of further layers, with the model's initial weights and
        without dropout. Nearest is the last one before the cut, or else the first one after it. A layer that carries
        state begins every window with its initial state.
        """
        return None

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that this model cannot take."""
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
                f"data.batch=1: model={self.name} has batch norm, which needs larger batches: set data.batch=64, say"
            )


@dataclass
class Layered(Model):
    """A model of equal hidden layers."""

    units: int = one_or_more(128)  # [units] of a hidden layer; cnn, resnet: channels of the first layer
    layers: int = one_or_more(3)  # [layers] number of hidden layers; resnet: blocks of each of its three widths
    dropout: float = below_one(0.0)  # [share] of activations set to zero in training: between recurrent layers, after
    # the hidden layers of mlp and mlp_bn, before the softmax layer of cnn and resnet, inside transformer layers; each
    # stage draws its own masks
