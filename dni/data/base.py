"""Base class of the data sets: their windows for training and validation, and properties for the checks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from dni.data.source import PassSource, Source
from dni.errors import ConfigError
from dni.losses import count_rows
from dni.named_tensors import Value
from dni.plugin import Named
from dni.ranges import one_or_more
from dni.types import Inputs

S = TypeVar("S", bound="DataSet")
F = TypeVar("F", bound="FromFiles")


@dataclass(frozen=True)
class DataContext:
    """The settings that a data set is opened with."""

    window: int  #: T, time steps of a window
    future_labels: int = 0  #: L, labels after a window that are sent with it
    seed: int = 0
    whole_sequences: bool = False  #: one window is one whole sequence
    probe_windows: int = 8  #: most windows in the sequence of a probe
    valid_windows: int | None = None  #: most windows in a validation; None: all


@dataclass(frozen=True)
class Data:
    """The opened data of a run."""

    name: str
    symbols: int  #: V, number of classes of the labels; O, numbers of one label, for regression
    input_symbols: int  #: number of input symbols; 0: inputs are numbers
    train: Source
    valid: Callable[[], Source]  #: returns the validation source, at its start; called for every validation
    valid_windows: int  #: number of windows in one validation; 0: there is no validation
    probe: Callable[[], Source]  #: returns a source that begins with the sequence to probe
    test: Callable[[], Source] | None = None  #: returns the data set's own test split, which it reads when called
    input_shape: tuple[int, ...] | None = None  #: shape of numeric inputs: (C, H, W) of an image, (D,) of a vector
    characters: tuple[str, ...] | None = None  #: characters of a text, by symbol
    tokenizer: str | None = None  #: content of the tokenizer.json of a text in tokens
    bytes_per_label: Mapping[str, float] = field(default_factory=dict)  #: UTF-8 bytes per token of a text, by split
    digest: Callable[[], str | None] = lambda: None  #: returns the SHA-256 of training and validation data; None:
    #: generated data

    @cached_property
    def sha256(self) -> str | None:
        """Compute the digest on first use: stages, which read the data as well, do not need it."""
        return self.digest()


def in_passes(name: str, train: PassSource, valid: PassSource, **more: Any) -> Data:
    """Return `Data` whose probes begin with the validation part; `more` are further fields of `Data`."""

    def from_the_start() -> PassSource:
        valid.load_state_dict({"window": 0})  # rewind instead of reading the files again
        return valid

    sizes = train.symbols, train.input_symbols
    return Data(name, *sizes, train, from_the_start, valid.windows_per_pass, from_the_start, **more)


@dataclass
class DataSet(Named, ABC):
    """Base class of the data sets.

    To add a data set, write a dataclass that subclasses this class, in a module of your own. Its fields, and those
    below, are the settings of the section `data`. Only `open` is required.
    """

    batch: int = one_or_more(32)  # [streams] B, examples or sequences per training step
    window: int = one_or_more(32)  # [time steps] T, length of a training step; time=checkpointed: of a recomputed chunk
    sequence: int | None = one_or_more(256)  # [time steps] between resets of the state, a multiple of T; null: reset at
    # the end of the text only
    sha256: str | None = None  # SHA-256 of the data, without the test split of images; filled in from the data

    #: The kind of inputs.
    gives: ClassVar[Inputs] = Inputs.symbols

    #: True if windows are parts of sequences (B, T), False for batches of examples with one label each.
    sequences: ClassVar[bool] = True

    #: One label per window, at its end, instead of one at every step.
    one_label: ClassVar[bool] = False

    #: Labels are numbers (B, T, O) in float32, O for each row, instead of classes. No future labels are sent.
    numbers: ClassVar[bool] = False

    #: V and the shape of one input, if both are known before a file is read; None: they are in the files.
    known_shapes: ClassVar[tuple[int, tuple[int, ...]] | None] = None

    #: The data is a text and the label its next character, so that a model can generate text.
    is_text: ClassVar[bool] = False

    @abstractmethod
    def open(self, context: DataContext) -> Data:
        """Return the windows. Raise DataError for data that cannot be read, ConfigError for sizes that do not fit."""

    def located(self: S) -> S:
        """Return the data set with absolute paths, which do not depend on the working directory."""
        return self

    def alphabet(self) -> tuple[tuple[str, ...], str] | None:
        """Return the characters of a text, by symbol, and its SHA-256; None: not a text. Raise the errors of `open`."""
        return None

    @property
    def local_classes(self) -> int:
        """Classes of the labels that the first stage has for a task of its own (`Window.local_labels`); 0: it has none.

        The method in depth must learn them: refuse the others in `check`.
        """
        return 0

    @property
    def grows(self) -> bool:
        """Whether sequences grow as they are learned: a curriculum, which needs reports of losses, not validation."""
        return False

    @property
    def known_ahead(self) -> bool:
        """Whether the training source knows the rest of a sequence (`Source.rest`)."""
        return False

    @property
    def whole_length(self) -> int | None:
        """Time steps of a whole sequence, or of a curriculum's first; None: sequences do not end."""
        return self.sequence

    @property
    def label_delay(self) -> int:
        """Time steps of a sequence before its labels; 0: there is a label at every step, or the delay is unknown."""
        return 0

    @property
    def varies(self) -> bool:
        """Whether windows differ in length, and the last batch of a validation may have fewer rows than `batch`."""
        return False

    @property
    def smaller_batches(self) -> bool:
        """Whether the last training batch of a pass may have fewer rows than `batch`."""
        return False

    def divisor(self, labels: Tensor) -> int:
        """Return the number of a window's labels, by which its parameter gradients are divided."""
        return count_rows(labels)

    def example(self, batch: int, steps: int) -> Value | None:
        """Return inputs of the right shapes, with T = `steps`; None: symbols, or of the shape `Data.input_shape`."""
        return None

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that do not fit this data."""
        if not self.sequences:
            self._check_no_time(run)
        elif run.whole_sequences and self.whole_length is None:
            raise ConfigError(
                f"time={run.time.name} backpropagates through whole sequences: set data.sequence to their "
                f"length, data.sequence={8 * self.window} say (or time=truncated)"
            )
        if self.sequence is not None and self.sequence % self.window:
            nearest = max(1, round(self.sequence / self.window)) * self.window
            raise ConfigError(
                f"data.sequence={self.sequence} is not a multiple of data.window={self.window}: "
                f"set data.sequence={nearest}, say (or data.sequence=null)"
            )

    def _check_no_time(self, run: Any) -> None:
        asked = f"data={self.name}"
        if run.time.answers or run.whole_sequences:
            raise ConfigError(f"time={run.time.name} needs sequences, and {asked} has none: use time=truncated")
        if self.window != 1 or self.sequence is not None:
            raise ConfigError(f"{asked} has no sequences: set data.window=1 and data.sequence=null")
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} needs sequences, and {asked} has none: set evaluate.probe=null"
            )


@dataclass
class FromFiles(DataSet):
    """Base class of data sets that are read from files."""

    path: str | None = None  # text: file or folder, such as the Penn Treebank's (null: the text that comes with
    # Python); images: folder (null: a folder with the name of the data); tokens: folder; series: .csv or .npy file

    def located(self: F) -> F:
        return replace(self, path=self.path and str(Path(self.path).expanduser().absolute()))


@dataclass
class Streamable(DataSet):
    """Base class of sequences that can be read as a stream."""

    streaming: bool = False  # read as a stream: labels after a window are not known, so there are no future_labels

    def check(self, run: Any) -> None:
        super().check(run)
        if self.streaming and run.future_labels:
            raise ConfigError(
                "data.streaming=true: the labels after a window are not known yet: use predictor=soft_label_critic (or "
                "predictor=mlp predictor.time.context=window)"
            )
