"""The data that the settings name: sources of windows for training, and for every validation pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dni.data.copy_task import CopySource
from dni.data.digest import digest_of
from dni.data.images import ImageSource, Scale, held_out_images, label_of, training_images
from dni.data.sequential_mnist import Part, PixelSource
from dni.data.source import Source
from dni.data.text import Corpus, Lanes, LanesSource, load_text
from dni.data.two_clocks import TwoClocksSource
from workers.config.schema import IMAGES, DataKind
from workers.config.settings import Config

#: Sequences in a validation pass over a generated task of fixed length.
VALIDATION_SEQUENCES = 16


_Images = PixelSource | ImageSource | TwoClocksSource


@dataclass(frozen=True)
class Data:
    """What a run reads."""

    name: str
    digest: Callable[[], str | None]  #: of what is trained and validated on (`sha256` keeps it); None: it is generated
    symbols: int  #: V
    input_symbols: int
    train: Source
    valid: Callable[[], Source]  #: from its start, for every pass
    valid_windows: int  #: of a pass; 0: there is no validation
    probe: Callable[[], Source]  #: begins with the sequence to probe with
    test: Callable[[], LanesSource | _Images] | None = None  #: its own test split; nothing is read before the call
    image: list[int] | None = None  #: channels, height and width, where the inputs are images
    characters: tuple[str, ...] | None = None  #: of a text, by symbol

    @cached_property
    def sha256(self) -> str | None:
        """Found when it is first asked for: the stages, which read the data again, do not need it."""
        return self.digest()


def open_data(config: Config) -> Data:
    """Raises DataError for what cannot be read, ConfigError for sizes that do not fit."""
    if config.data.kind is DataKind.text:
        return text_data(load_text(config.data.path), config)
    if config.data.kind in IMAGES:
        return _images(config)
    if config.data.kind is DataKind.two_clocks:
        return _two_clocks(config)
    return _pixels(config) if config.data.kind is DataKind.seqmnist else _copying(config)


def resolve(config: Config) -> tuple[Config, Data]:
    """Open the data, and fill in what the settings leave to it, or to the run's length. Raises as `open_data`."""
    path = config.data.path and str(Path(config.data.path).expanduser().absolute())
    config = replace(config, data=replace(config.data, path=path))
    data = open_data(config)
    model = replace(config.model, symbols=data.symbols, input_symbols=data.input_symbols, image=data.image)
    schedule = config.optimizer.schedule
    if schedule.ends:
        schedule = replace(schedule, decay_steps=config.decay_steps)
    optimizer = replace(config.optimizer, schedule=schedule)
    return replace(config, model=model, data=replace(config.data, sha256=data.sha256), optimizer=optimizer), data


def text_data(corpus: Corpus, config: Config) -> Data:
    """Windows of a text. Raises DataError if it is too short."""
    data = config.data
    shape = {"batch": data.batch, "window": config.window, "lookahead": config.lookahead}

    def lanes(ids: Tensor) -> Lanes:
        return Lanes(ids, **shape, sequence=data.sequence)

    train, valid, held_out = lanes(corpus.train), lanes(corpus.valid), corpus.test
    symbols, length = len(corpus.symbols), valid.windows_per_pass
    source = LanesSource(train, symbols, streaming=data.streaming)

    def from_the_start() -> LanesSource:
        return LanesSource(valid, symbols)

    test = None if held_out is None else lambda: LanesSource(lanes(held_out), symbols)
    name, sizes = corpus.name, (symbols, symbols)
    return Data(
        name, lambda: corpus.sha256, *sizes, source, from_the_start, length, from_the_start, test,
        characters=corpus.symbols,
    )  # fmt: skip


def _copying(config: Config) -> Data:
    data = config.data

    def source(seed: int, length: int | None = data.length) -> CopySource:
        window = None if config.whole_sequences else data.window
        repeat = data.kind is DataKind.repeat_copy
        return CopySource(
            data.batch, window, config.lookahead, seed=seed, repeat=repeat, length=length, streaming=data.streaming
        )

    def valid() -> CopySource:
        return source(config.seed + 10**9)

    def probe() -> CopySource:
        """Sequences as long as the curriculum's present ones, if the probe can hold them: their labels come late."""
        most = config.evaluate.probe_windows * config.window
        length = train.length if config.whole_sequences else train.longest_within(most)
        return source(config.seed + 2 * 10**9, length)

    train = source(config.seed)
    per_sequence = 0 if data.length is None else train.windows_per_sequence
    windows = VALIDATION_SEQUENCES * per_sequence
    name, sizes = data.kind.name, (train.symbols, train.input_symbols)
    return Data(name, lambda: None, *sizes, train, valid, windows, probe if data.length is None else valid)


def _pixels(config: Config) -> Data:
    data = config.data
    shape = {"batch": data.batch, "window": config.window, "lookahead": config.lookahead}

    def source(part: Part) -> PixelSource:
        folder = data.path or "mnist"
        return PixelSource(folder, **shape, part=part, seed=config.seed, side=data.side, streaming=data.streaming)

    def from_the_start() -> PixelSource:
        valid.load_state_dict({"window": 0})  # the images are read once, not once a pass
        return valid

    train, valid = source("train"), source("valid")
    length = valid.windows_per_pass
    digest, sizes = partial(_digest, train, valid), (train.symbols, train.input_symbols)
    return Data("seqmnist", digest, *sizes, train, from_the_start, length, from_the_start, partial(source, "test"))


def _images(config: Config) -> Data:
    data, kind = config.data, IMAGES[config.data.kind]
    folder = Path(data.path or kind).expanduser()
    for_training, for_validation = training_images(kind, folder)
    scale = Scale.of(for_training.pixels)
    train = ImageSource(for_training, data.batch, scale, shuffle=True, seed=config.seed, noise=data.noise)

    def from_the_start() -> ImageSource:
        return ImageSource(for_validation, data.batch, scale)

    def test() -> ImageSource:
        return ImageSource(held_out_images(kind, folder), data.batch, scale)

    name, length = data.label or label_of(kind, folder), from_the_start().windows_per_pass
    digest, sizes = partial(_digest, train, from_the_start()), (train.symbols, train.input_symbols)
    return Data(name, digest, *sizes, train, from_the_start, length, from_the_start, test, [*train.shape])


def _two_clocks(config: Config) -> Data:
    data = config.data

    def source(part: Part) -> TwoClocksSource:
        shape: dict[str, Any] = {"block": data.block, "sequence": data.sequence, "side": data.side}
        return TwoClocksSource(data.path or "mnist", data.batch, data.window, **shape, part=part, seed=config.seed)

    def from_the_start() -> TwoClocksSource:
        valid.load_state_dict({"window": 0})  # the images are read once, not once a pass
        return valid

    train, valid = source("train"), source("valid")
    length, sizes = valid.windows_per_pass, (train.symbols, train.input_symbols)
    digest, test = partial(_digest, train, valid), partial(source, "test")
    return Data("two_clocks", digest, *sizes, train, from_the_start, length, from_the_start, test)


def _digest(
    train: PixelSource | ImageSource | TwoClocksSource, valid: PixelSource | ImageSource | TwoClocksSource
) -> str:
    """Of the images as they are held; the test images are not opened."""
    return digest_of(*train.contents(), *valid.contents())
