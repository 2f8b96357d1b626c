"""A new run from the weights of an earlier one: which checkpoint, whether the model is the same, what comes along."""

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

#: Differences that a message names.
MOST = 3


def settle_start(config: Config) -> Config:
    """Name the checkpoint whose weights are taken, and say what comes along. Raises ConfigError if it does not fit."""
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
    told = _told(config, stages)
    log.info("starting from the weights of step %d (%s) of %s%s", choice.step, choice.which, folder, told)
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
            f"start_from={config.start_from}: its model is another one: {', '.join(wrong[:MOST])}{more}; set model and "
            "data as they were there (the first and the last layer have as many rows as there are symbols)"
        )


def _refuse_other_symbols(config: Config, before: Config) -> None:
    """Of two texts with as many symbols: whether they are the same ones."""
    if not (config.data.is_text and before.data.is_text) or config.data.sha256 == before.data.sha256:
        return
    here, _ = config.data.alphabet() or ((), "")
    try:
        earlier, digest = before.data.alphabet() or ((), "")
    except DataError:
        earlier, digest = (), ""
    if digest != before.data.sha256:
        log.warning(
            "the text that %s was trained on is no longer where it was: whether its %d symbols are the same cannot be "
            "checked", config.start_from, len(here),
        )  # fmt: skip
    elif earlier != here:
        only_there, only_here = sorted({*earlier} - {*here}), sorted({*here} - {*earlier})
        raise ConfigError(
            f"start_from={config.start_from}: its text has other symbols: {only_there[:MOST]} only there, "
            f"{only_here[:MOST]} only here; train on a text of the same symbols"
        )


def _told(config: Config, stages: list[EarlierStage]) -> str:
    """Which predictors come along, and which begin anew, and why."""
    taken, anew = [], []
    for index, chain in enumerate(chains_without_content(config)):
        layers = layers_of(chain)
        for cut, module in learners(config, index, chain).items():
            weights = next((found for stage in stages if (found := learned(stage.at(cut, layers)))), {})
            why = "it has other sizes there" if weights else "there is none at this cut there"
            name = f"{cut} at stage {index}"
            taken += [name] if weights and fits(module, weights) else []
            anew += [] if weights and fits(module, weights) else [f"{name} ({why})"]
    come = f"; predictors that come along: {', '.join(taken)}" if taken else ""
    return come + (f"; predictors that begin anew: {', '.join(anew)}" if anew else "")
