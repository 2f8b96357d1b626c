"""What every data set offers: its windows for training and validation, and what the rules ask of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from dni.data.source import PassSource, Source
from dni.errors import ConfigError
from dni.plugin import Named
from dni.ranges import one_or_more
from dni.types import Inputs

S = TypeVar("S", bound="DataSet")
F = TypeVar("F", bound="FromFiles")


@dataclass(frozen=True)
class DataContext:
    """What a data set is opened for."""

    window: int  #: T of the windows in force
    future_labels: int = 0  #: L, labels after a window that travel with it
    seed: int = 0
    whole_sequences: bool = False  #: one window is one whole sequence
    probe_windows: int = 8  #: most windows of the sequence that a probe takes


@dataclass(frozen=True)
class Data:
    """What a run reads."""

    name: str
    symbols: int  #: V; O where labels are numbers
    input_symbols: int
    train: Source
    valid: Callable[[], Source]  #: from its start, for every pass
    valid_windows: int  #: of a pass; 0: there is no validation
    probe: Callable[[], Source]  #: begins with the sequence to probe with
    test: Callable[[], PassSource] | None = None  #: its own test split; nothing is read before the call
    input_shape: tuple[int, ...] | None = None  #: of inputs that are numbers: (C, H, W) of an image, (D,) of a vector
    characters: tuple[str, ...] | None = None  #: of a text, by symbol
    tokenizer: str | None = None  #: of a text in tokens: what its tokenizer.json holds
    bytes_per_label: Mapping[str, float] = field(default_factory=dict)  #: of such a text in UTF-8, by split
    digest: Callable[[], str | None] = lambda: None  #: of what is trained and validated on; None: it is generated

    @cached_property
    def sha256(self) -> str | None:
        """Found when it is first asked for: the stages, which read the data again, do not need it."""
        return self.digest()


def in_passes(name: str, train: PassSource, valid: PassSource, **more: Any) -> Data:
    """Data with a validation part, in which probes begin as well; `more`: further fields of `Data`."""

    def from_the_start() -> PassSource:
        valid.load_state_dict({"window": 0})  # what it holds is read once, not once a pass
        return valid

    sizes = train.symbols, train.input_symbols
    return Data(name, *sizes, train, from_the_start, valid.windows_per_pass, from_the_start, **more)


@dataclass
class DataSet(Named, ABC):
    """Base class of the data sets.

    A data set of your own is a subclass and a dataclass, in a module of your own; its fields are the settings of
    the section `data`, with those below. `open` is all that it must have.
    """

    batch: int = one_or_more(32)  # [streams] B, examples or sequences that are trained on at once
    window: int = one_or_more(32)  # [time steps] T, of one training step; time=checkpointed: of a chunk that is
    # computed again
    sequence: int | None = one_or_more(256)  # [time steps] between resets, a multiple of T; null: streams run on to the
    # text's end
    sha256: str | None = None  # of the data that is read, but for the test split of images; filled in from it

    #: What its inputs are.
    gives: ClassVar[Inputs] = Inputs.symbols

    #: Windows are parts of sequences (B, T); else a batch of examples, each with one label.
    sequences: ClassVar[bool] = True

    #: There is one label a window, at its end, and not one at every step.
    one_label: ClassVar[bool] = False

    #: Labels are numbers (B, T, O) in float32, O of them a row, and not classes; nothing of them travels ahead.
    numbers: ClassVar[bool] = False

    #: It is a text, whose next character a model learns, so that it can write.
    is_text: ClassVar[bool] = False

    @abstractmethod
    def open(self, context: DataContext) -> Data:
        """Its windows. Raises DataError for what cannot be read, ConfigError for sizes that do not fit."""

    def located(self: S) -> S:
        """The same data set, wherever this process works: with absolute paths."""
        return self

    def alphabet(self) -> tuple[tuple[str, ...], str] | None:
        """The characters of a text, by symbol, and its SHA-256; None: it is no text. Raises as `open`."""
        return None

    @property
    def own_classes(self) -> int:
        """Classes of the labels that the first stage has for a task of its own (`Window.own`); 0: it has none."""
        return 0

    @property
    def grows(self) -> bool:
        """Whether sequences grow as they are learned: a curriculum, which hears of losses and has no validation."""
        return False

    @property
    def known_ahead(self) -> bool:
        """Whether its training source knows the rest of a sequence (`Source.rest`)."""
        return False

    @property
    def whole_length(self) -> int | None:
        """Steps of one whole sequence, of a curriculum the first; None: it has no end."""
        return self.sequence

    @property
    def label_delay(self) -> int:
        """Steps of a sequence after which its labels come; 0: they come at every step, or it is not known."""
        return 0

    def check(self, run: Any) -> None:
        """Raise ConfigError for settings of the run (`workers.config.settings.Config`) that do not go with it."""
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
        if self.own_classes and not run.depth.multi_rate:
            raise ConfigError(
                f"data={self.name} has a task of the first stage's own, whose gradient is added to that of its output, "
                f"and depth={run.depth.name} has none: use depth=synthetic or depth=backprop"
            )

    def _check_no_time(self, run: Any) -> None:
        asked = f"data={self.name}"
        if run.time.answers or run.whole_sequences:
            raise ConfigError(f"time={run.time.name} has nothing to cut, for {asked} has no time: use time=truncated")
        if self.window != 1 or self.sequence is not None:
            raise ConfigError(f"{asked} has no sequences: set data.window=1 and data.sequence=null")
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} goes through a sequence, and {asked} has none: "
                "set evaluate.probe=null"
            )


@dataclass
class FromFiles(DataSet):
    """Data that is read from files."""

    path: str | None = None  # text: file, folder, or Penn Treebank folder, null: the embedded text; images' or tokens'
    # folder; series: .csv or .npy file

    def located(self: F) -> F:
        return replace(self, path=self.path and str(Path(self.path).expanduser().absolute()))


@dataclass
class Streamable(DataSet):
    """Sequences that may be read as they come."""

    streaming: bool = False  # labels after a window are not known yet: no future_labels

    def check(self, run: Any) -> None:
        super().check(run)
        if self.streaming and run.future_labels:
            raise ConfigError(
                "data.streaming=true: the labels after a window are not known yet: use predictor=soft_label_critic (or "
                "predictor=mlp predictor.time.context=window)"
            )
