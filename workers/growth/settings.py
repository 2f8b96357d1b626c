"""The settings of the grown model, and which of its layers are new."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import yaml

from dni.errors import ConfigError
from dni.growth import Insertion, insertion
from workers.build.model import build_whole
from workers.build.warm_start import chains_without_content, layers_of
from workers.config.convert import from_any, to_plain
from workers.config.quoting import as_text
from workers.config.settings import Config

#: The setting that says how many layers the package's own models have.
LAYERS = "layers"

Signature = tuple[str, dict[str, tuple[int, ...]]]
"""The class of a layer, and the shapes of its weights."""


def grown_settings(
    config: Config, parts: Sequence[Sequence[str]], after: Sequence[str], words: Sequence[str]
) -> tuple[Config, Insertion]:
    """Return the settings of a run whose model has more layers, cut where that of `config` is.

    Args:
        config: settings of the run
        parts: the names of the layers of each part of its model
        after: names of the layers that new ones follow
        words: settings that make the model larger, `model.NAME=VALUE`; empty: `model.layers` is as much larger as is
            needed

    Raises ConfigError if there is no such model.
    """
    before, failure = signatures(config), None
    for larger in _candidates(config, len(after), words):
        try:
            grown = signatures(larger)
            found = insertion([*before], [*grown], after)
            _refuse_other_layers(before, grown, found)
        except ConfigError as error:
            failure = failure or error
        else:
            return _cut_alike(larger, [found.grown(part) for part in parts]), found
    assert failure is not None
    raise failure


def signatures(config: Config) -> dict[str, Signature]:
    """Return class and shapes of every layer of the whole model, by name, in order."""
    with torch.device("meta"):
        layers = build_whole(config).named_children()
    return {
        name: (type(layer).__qualname__, {key: tuple(value.shape) for key, value in layer.state_dict().items()})
        for name, layer in layers
    }


def _candidates(config: Config, places: int, words: Sequence[str]) -> Iterator[Config]:
    """Yield the settings that may have the larger model."""
    model = to_plain(config)["model"]
    if words:
        yield _with_model(config, dict(map(_parsed, words)))
    elif isinstance(model.get(LAYERS), int):
        yield from (_with_model(config, {LAYERS: model[LAYERS] + more}) for more in range(1, places + 1))
    else:
        raise ConfigError(
            f"model={config.model.name} has no setting model.{LAYERS}: add the setting that makes it larger, "
            "model.NAME=VALUE"
        )


def _parsed(word: str) -> tuple[str, object]:
    name, sign, value = word.partition("=")
    section, dot, key = name.partition(".")
    if not (sign and dot and section == "model" and key):
        raise ConfigError(f"{word}: only settings of the model change here: write model.NAME=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"{word}: {value} is no value: {' '.join(str(error).split())}") from error


def _with_model(config: Config, changes: dict[str, object]) -> Config:
    plain = to_plain(config)
    plain["model"] |= {"split_points": [], **changes}
    return from_any(as_text(plain))


def _refuse_other_layers(before: dict[str, Signature], grown: dict[str, Signature], found: Insertion) -> None:
    for name, now in found.names.items():
        if before[name] != grown[now]:
            raise ConfigError(
                f"the grown model has another {name}: {_described(grown[now])} instead of {_described(before[name])}; "
                "change only the number of layers, and name layers that others of their kind follow"
            )


def _described(signature: Signature) -> str:
    kind, shapes = signature
    return f"{kind}({', '.join(f'{key} {shape}' for key, shape in shapes.items())})"


def _cut_alike(config: Config, parts: list[tuple[str, ...]]) -> Config:
    """The settings with the cuts of `parts`, which are named only if the model would else be cut elsewhere."""
    stages = len(parts) // (config.parts // config.stages)
    config = replace(config, stages=stages)
    if [layers_of(chain) for chain in chains_without_content(config)] == parts:
        return config
    return replace(config, model=replace(config.model, split_points=[part[0] for part in parts[1:]]))
