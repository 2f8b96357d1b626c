"""Start a new run from the weights of an earlier one: choose the checkpoint, compare the models, list what is taken."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from dni.errors import CheckpointError, ConfigError, DataError
from workers.build.interfaces import learners
from workers.build.warm_start import EarlierStage, chains_without_content, earlier_stages, fits, layers_of, learned
from workers.config.settings import Config
from workers.resume.choice import choose
from workers.resume.start_file import settle_file
from workers.storage.record import read_record
from workers.storage.weights_file import is_weights_file

log = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]

#: Most differences that a message lists.
MOST = 3


def settle_start(config: Config) -> Config:
    """Fill in the checkpoint to take weights from, and log which parts are taken. Raises ConfigError if it does not
    fit."""
    if config.start_from is None:
        return config
    folder = Path(config.start_from).expanduser().absolute()
    if is_weights_file(folder):
        return settle_file(config, folder)
    try:
        before = read_record(folder)
    except ConfigError as error:
        raise ConfigError(f"start_from={error}") from error
    try:
        choice = choose(folder, config.start_step, "start_step=")
        config = replace(config, start_from=str(folder), start_step=str(choice.step))
        stages = list(earlier_stages(config))
    except CheckpointError as error:
        raise ConfigError(f"start_from={folder}: {error}; choose another with start_step=N") from error
    _refuse_other_model(config, stages)
    _refuse_other_symbols(config, before)
    taken = _predictors_taken(config, stages)
    log.info("starting from the weights of step %d (%s) of %s%s", choice.step, choice.which, folder, taken)
    return config


def _refuse_other_model(config: Config, stages: list[EarlierStage]) -> None:
    here: Shapes = {}
    for chain in chains_without_content(config):
        here |= {name: tuple(value.shape) for name, value in chain.state_dict().items()}
    there: Shapes = {name: tuple(value.shape) for stage in stages for name, value in stage.weights.items()}
    wrong = [
        f"{name} is {there.get(name, 'not there')}, here {here.get(name, 'not there')}"
        for name in [*there, *(name for name in here if name not in there)]
        if there.get(name) != here.get(name)
    ]
    if wrong:
        more = f" and {len(wrong) - MOST} more" if len(wrong) > MOST else ""
        raise ConfigError(
            f"start_from={config.start_from} has another model: {', '.join(wrong[:MOST])}{more}; set model and data "
            "as that run did (the first and the last layer have one row per symbol)"
        )


def _refuse_other_symbols(config: Config, before: Config) -> None:
    """Refuse a text with as many symbols, but other ones."""
    if not (config.data.is_text and before.data.is_text) or config.data.sha256 == before.data.sha256:
        return
    here, _ = config.data.alphabet() or ((), "")
    try:
        earlier, digest = before.data.alphabet() or ((), "")
    except DataError:
        earlier, digest = (), ""
    if digest != before.data.sha256:
        log.warning(
            "the text that %s was trained on has moved or changed: cannot check whether its %d symbols are the same",
            config.start_from, len(here),
        )  # fmt: skip
    elif earlier != here:
        only_there, only_here = sorted({*earlier} - {*here}), sorted({*here} - {*earlier})
        raise ConfigError(
            f"start_from={config.start_from}: its text has other symbols: {only_there[:MOST]} only there, "
            f"{only_here[:MOST]} only here; train on a text of the same symbols"
        )


def _predictors_taken(config: Config, stages: list[EarlierStage]) -> str:
    """Describe which predictors are taken and which start untrained, and why."""
    taken, untrained = [], []
    for index, chain in enumerate(chains_without_content(config)):
        layers = layers_of(chain)
        found = learners(config, index, chain)
        for cut, place, module in found:
            weights = next((own for stage in stages if (own := learned(stage.at(cut, layers), place))), {})
            why = "other sizes there" if weights else "no predictor at this cut there"
            several = [each.cut for each in found].count(cut) > 1
            name = f"{cut} {place} at stage {index}" if several else f"{cut} at stage {index}"
            taken += [name] if weights and fits(module, weights) else []
            untrained += [] if weights and fits(module, weights) else [f"{name} ({why})"]
    listed = f"; predictors taken: {', '.join(taken)}" if taken else ""
    return listed + (f"; predictors that start untrained: {', '.join(untrained)}" if untrained else "")
