"""A new run from the weights in a safetensors file: whether they are those of its model."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dni.data.tokenizer import Tokenizer
from dni.errors import CheckpointError, ConfigError
from workers.build.warm_start import chains_without_content
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.storage import weights_file
from workers.storage.weights_file import WeightsFile

log = logging.getLogger(__name__)

#: Names that a message lists.
MOST = 3


def settle_file(config: Config, path: Path) -> Config:
    """The settings with the file's whole path. Raises ConfigError if it cannot be read or is of another model."""
    if config.start_step is not None:
        raise ConfigError(
            f"start_step={config.start_step} chooses a checkpoint of a run, and start_from={path} is one file: leave "
            "start_step out"
        )
    try:
        found = weights_file.read(path)
    except CheckpointError as error:
        raise ConfigError(f"start_from={error}") from error
    config = replace(config, start_from=str(path))
    refuse_other_weights(config, found)
    refuse_other_characters(config, found.facts)
    step = f" of step {found.facts['step']}" if "step" in found.facts else ""
    log.info("starting from the weights%s in %s; all predictors begin anew", step, path)
    return config


def refuse_other_weights(config: Config, found: WeightsFile) -> None:
    """Raise ConfigError unless the file has the model's names and shapes, and no others."""
    chains = chains_without_content(config)
    here = {name: tuple(value.shape) for chain in chains for name, value in chain.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in found.tensors.items()}
    wrong = {
        "it lacks": [name for name in here if name not in there],
        "it has more than the model": [name for name in there if name not in here],
        "of other shapes": [
            f"{name} {there[name]}, here {here[name]}" for name in here if name in there and there[name] != here[name]
        ],
    }
    said = [f"{what}: {_listed(names)}" for what, names in wrong.items() if names]
    if said:
        raise ConfigError(
            f"start_from={config.start_from}: its weights are not those of this model: {'; '.join(said)}; "
            f"{_way(config, found.facts)}"
        )


def refuse_other_characters(config: Config, facts: dict[str, str]) -> None:
    """Raise ConfigError if the symbols of the file are other characters or tokens than those of the text here."""
    here, _ = (config.data.alphabet() if config.data.is_text else None) or ((), "")
    there = _symbols_of(facts, config.start_from) if here else ()
    if there and there != here:
        only_there, only_here = sorted({*there} - {*here}), sorted({*here} - {*there})
        raise ConfigError(
            f"start_from={config.start_from}: its text has other symbols: {only_there[:MOST]} only there, "
            f"{only_here[:MOST]} only here; train on a text of the same symbols"
        )


def _symbols_of(facts: dict[str, str], file: str | None) -> tuple[str, ...]:
    if "tokenizer" in facts:
        return Tokenizer(facts["tokenizer"], f"the tokenizer in {file}").tokens
    return tuple(facts.get("characters", ""))


def _way(config: Config, facts: dict[str, str]) -> str:
    """What to type: the settings that the file names, where they differ."""
    there = _model_of(facts)
    here = to_plain(config)["model"]
    apart = [
        f"model.{key}={there[key]}"
        for key in here
        if key in there and there[key] != here[key] and key not in ("split_points", "init", "dropout")
    ]
    exported = f" (it was exported with {', '.join(apart)})" if apart else ""
    return f"set model and data as they were there{exported}, or give another file"


def _model_of(facts: dict[str, str]) -> dict[str, Any]:
    try:
        model = json.loads(facts.get("model", "{}"))
    except (ValueError, RecursionError):
        return {}
    return model if isinstance(model, dict) else {}


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{', '.join(names[:MOST])}{more}"
