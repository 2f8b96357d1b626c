"""A data set that a function returns: one of torch, map-style or iterable, or an iterable of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import Any, ClassVar

from torch import Tensor

from dni.data.base import Data, DataContext, DataSet
from dni.data.source import Source
from dni.data.torch_sets.collate import Collator
from dni.data.torch_sets.layout import ItemLayout
from dni.data.torch_sets.mapped import MappedSource
from dni.data.torch_sets.reading import classes_of, explained, first_items, in_any_order, readable, windows_of
from dni.data.torch_sets.streamed import StreamedSource
from dni.errors import ConfigError, DataError
from dni.named_tensors import UNNAMED, Value
from dni.plugin import call_with, class_of
from dni.ranges import one_or_more
from dni.rng import drawing_from
from dni.types import IGNORED, Inputs

#: The parameter that is given the part of the data: "train", "valid" or "test".
SPLIT = "split"

#: Number of first items that show which sizes vary.
_FIRST = 16


@dataclass
class TorchData(DataSet):
    """Base class of data sets that are made from a function. An item is (inputs, labels), and one sequence if it has
    labels at every step.

    The function is called with split="train", "valid" or "test". It returns a `torch.utils.data.Dataset`, an
    `IterableDataset`, or an iterable of batches. It may return None for "test".
    """

    window: int = one_or_more(1)  # filled in: T of the first item
    sequence: int | None = one_or_more(None)
    classes: int | None = one_or_more(None)  # [classes] V; null: from the data set's `classes` or `num_classes`
    vocabulary: int | None = one_or_more(None)  # [symbols] of integer inputs; null: as many as classes
    shuffle: bool | None = (
        None  # read every pass in a new order; null: if the data set has a length and items by number
    )
    drop_last: bool = True  # leave out the last training batch of a pass if it is smaller
    items: dict[str, str] | None = None  # element types and sizes of an item's tensors; filled in from the first items

    function: ClassVar[Callable[..., Any]]

    def located(self) -> TorchData:
        """Return the data set with its sizes filled in, from its first items."""
        layout, outputs = self.layout, self._outputs
        steps = self._first[1] if layout.sequences else 1
        filled = replace(
            self,
            items=layout.plain(),
            window=steps,
            classes=None if layout.numbers else outputs,
            vocabulary=self._symbols,
        )
        if in_any_order(self.__dict__.get("_train")):
            filled.__dict__["_train"] = self._train  # built once; iterables may have moved on
        return filled

    def open(self, context: DataContext) -> Data:
        if context.future_labels:
            raise ConfigError(f"data={self.name} has no labels after a window: use predictor.time.context=none")
        train, valid = (self._source(split, context) for split in ("train", "valid"))
        if isinstance(valid, MappedSource):
            self.layout.refuse_other(first_items(valid.items, 1, valid.name)[0], f"{valid.name} item 0")
        windows = valid.windows_per_pass or context.valid_windows
        if windows is None:
            raise ConfigError(
                f"data={self.name} has no length for split=valid, so that a validation would not end: set "
                "evaluate.windows=50, say (or give it __len__)"
            )
        again: Callable[[], Source] = partial(self._source, "valid", context)
        if isinstance(valid, MappedSource):
            again = partial(_rewound, valid)
        return Data(
            self.name, self._outputs, self._symbols or 0, train, again, windows, again,
            test=partial(self._source, "test", context), input_shape=self._shape,
        )  # fmt: skip

    @property
    def layout(self) -> ItemLayout:
        """The kinds of an item's tensors. Raise DataError if they cannot be trained on."""
        return self._first[0] if self.items is None else ItemLayout.parse(self.items)

    @property
    def gives(self) -> Inputs:  # type: ignore[override]
        single = self.layout.single
        if single is None:
            return Inputs.named
        if not single.dtype.is_floating_point:
            return Inputs.symbols
        return Inputs.images if len(single.sizes) == 3 and not self.sequences else Inputs.vectors

    @property
    def sequences(self) -> bool:  # type: ignore[override]
        return self.layout.sequences

    @property
    def numbers(self) -> bool:  # type: ignore[override]
        return self.layout.numbers

    @property
    def varies(self) -> bool:
        return True

    @property
    def smaller_batches(self) -> bool:
        return not self.drop_last

    def divisor(self, labels: Tensor) -> int:
        """Return the number of labels that count."""
        return super().divisor(labels) if self.numbers else max(1, int((labels != IGNORED).sum()))

    def example(self, batch: int, steps: int) -> Value:
        layout = self.layout
        found = {name: kind.zeros(batch, steps) for name, kind in layout.inputs.items()}
        return found if layout.single is None else found[UNNAMED]

    def check(self, run: Any) -> None:
        for name, value, fixed in (("window", self.window, 1), ("sequence", self.sequence, None)):
            if value != fixed and self.items is None:
                raise ConfigError(f"data={self.name} gives whole sequences, or examples: leave out data.{name}={value}")
        if run.time.answers or run.whole_sequences:
            raise ConfigError(
                f"time={run.time.name} needs windows of longer sequences, and a window of data={self.name} is a whole "
                "one: use time=truncated, which cuts nothing"
            )
        if run.evaluate.probe is not None and not self.sequences:
            raise ConfigError(f"evaluate.probe needs sequences, and data={self.name} has none: set evaluate.probe=null")
        if run.max_timesteps is not None and self.sequences:
            raise ConfigError(f"max_timesteps needs windows of one length, and data={self.name} varies: set steps")
        if self.shuffle and not in_any_order(self._train):
            raise ConfigError(
                f"data.shuffle=true needs a length and items by number, which the {type(self._train).__name__} of "
                f"data={self.name} has not: shuffle in the data set, and set data.shuffle=null"
            )
        if self.layout.single is None and run.depth.predicts_inputs:
            raise ConfigError(
                f"data={self.name} has the inputs {', '.join(self.layout.inputs)}, and depth={run.depth.name} needs "
                "one tensor: use depth=synthetic, local, delayed or backprop"
            )

    @cached_property
    def _train(self) -> Any:
        return self._built("train")

    @cached_property
    def _first(self) -> tuple[ItemLayout, int]:
        """The layout of the first items, and the number of labels of the first one."""
        name = f"data={self.name}, train"
        with explained(f"data={self.name} failed for split=train"), drawing_from(0):
            items = first_items(self._train, _FIRST, name)
        return ItemLayout.of(items, f"{name} item 0"), len(items[0].labels) if items[0].labels.dim() else 1

    @property
    def _outputs(self) -> int:
        """V, or O of labels that are numbers."""
        if self.layout.numbers:
            return int(self.layout.labels.sizes[-1])
        count = self.classes or classes_of(self._train)
        if count is None:
            raise ConfigError(
                f"data.classes is not set: the labels of data={self.name} are classes: set data.classes=10, say (or "
                "give the data set an attribute `classes` or `num_classes`)"
            )
        return count

    @property
    def _symbols(self) -> int | None:
        """Number of input symbols; None: the inputs are numbers."""
        single = self.layout.single
        if single is not None and single.dtype.is_floating_point:
            return None
        return self.vocabulary or (None if self.layout.numbers else self._outputs)

    @property
    def _shape(self) -> tuple[int, ...] | None:
        """The shape of one input, or of one step, of numbers; None: inputs are symbols or named."""
        single = self.layout.single
        if single is None or not single.dtype.is_floating_point:
            return None
        return tuple(size for size in single.sizes if isinstance(size, int))

    def _source(self, split: str, context: DataContext) -> Source:
        training, name = split == "train", f"data={self.name}, {split}"
        data = self._train if training else self._built(split)
        collator = Collator(self.layout, self._outputs, (self._symbols or 0) if self.layout.single else 0)
        common: dict[str, Any] = {"drop_last": self.drop_last and training, "seed": context.seed, "name": name}
        if in_any_order(data):
            shuffle = training and self.shuffle is not False
            return MappedSource(data, collator, self.batch, shuffle=shuffle, **common)
        return StreamedSource(data, collator, self.batch, windows=windows_of(data, self.batch), **common)

    def _built(self, split: str) -> Any:
        with explained(f"data={self.name} failed for split={split}"):
            built = call_with(type(self).function, self, **{SPLIT: split})
        if built is None and split != "train":
            raise DataError(
                f"data={self.name} gives None for split={split}: return its data, a part of that for training"
            )
        if not readable(built):
            raise ConfigError(
                f"data={self.name} gives a {type(built).__name__} for split={split}, and must give a torch Dataset, an "
                "IterableDataset or a DataLoader"
            )
        return built


@cache
def data_of(function: Callable[..., Any]) -> type[DataSet]:
    """Return the data set class whose parts the function gives.

    Parameters with a type and a default are settings; `split` is given the part. Raises ConfigError for other
    parameters.
    """
    return class_of(function, TorchData, (SPLIT,))


def _rewound(source: MappedSource) -> MappedSource:
    source.load_state_dict({"window": 0})  # instead of building it again
    return source
