"""Grow the model of a trained run: a new run folder whose checkpoint has more layers and computes the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dni.data.base import Data
from dni.growth import Insertion
from workers.build.model import build_chains
from workers.build.warm_start import layers_of
from workers.cli.evaluate import load_parts, read_settings
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.growth.compare import refuse_change
from workers.growth.part import grown_part, refuse_unfit, renamed
from workers.growth.settings import grown_settings
from workers.launch.accept import refuse_taken
from workers.repartition.saved import SavedPart, read_parts
from workers.resume.choice import choose
from workers.storage import checkpoint
from workers.storage.record import write_record
from workers.storage.versions import VERSIONS
from workers.storage.vocabulary import VOCABULARY


@dataclass(frozen=True)
class Grown:
    """What was written."""

    folder: Path
    step: int  #: of the checkpoint
    stages: list[tuple[str, ...]]  #: the layers of each part of the model
    new: frozenset[str]  #: the names of the new layers
    difference: float  #: largest difference of the outputs, as a share of the largest output if that is above 1


def grow(run_dir: Path, folder: Path, after: Sequence[str], words: Sequence[str] = (), step: str = "last") -> Grown:
    """Write a run folder with one checkpoint, that of `run_dir` with new layers which begin as the identity.

    Args:
        run_dir: the run's folder; its data must still be there
        folder: the new run's folder
        after: the layers that new ones follow, equally many each
        words: settings of the larger model, `model.NAME=VALUE`; default: a larger `model.layers`
        step: the checkpoint: a number, best or last

    Weights, the optimizer's state, carried state and the place in the data of the old layers stay. Records begin with
    this step. Raises ConfigError for layers that cannot be new there, CheckpointError for what cannot be read.
    """
    refuse_taken(folder)
    config, data = read_settings(run_dir)
    choice = choose(run_dir, step, "--step ")
    parts = read_parts(run_dir, choice.step)
    larger, found = grown_settings(config, [part.layers for part in parts], after, words)
    check(larger)
    with _complete(folder) as partly:
        _write(run_dir, partly, replace(larger, resume=str(run_dir.absolute()), resume_step=choice.step))
        _write_parts(larger, partly, choice.step, parts, found, data)
        before, grown = load_parts(config, run_dir, choice.step), load_parts(larger, partly, choice.step)
        difference = refuse_change(before, grown, found, data)
    return Grown(folder, choice.step, [layers_of(chain) for chain in build_chains(larger)], found.new, difference)


def _write(run_dir: Path, folder: Path, config: Config) -> None:
    """Write all but the checkpoint."""
    write_record(folder, config)
    for name in (VOCABULARY, VERSIONS):
        if (run_dir / name).is_file():
            shutil.copy(run_dir / name, folder / name)


def _write_parts(
    config: Config, folder: Path, step: int, parts: Sequence[SavedPart], found: Insertion, data: Data
) -> None:
    here = replace(config, devices=["cpu"], compile=False)
    for index, part in enumerate(parts):
        state = grown_part(here, renamed(part, found.names), found, data)
        refuse_unfit(here, folder, step, index, state)
        checkpoint.save(folder, index, len(parts), step, state)


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """Give a folder beside this one, which gets its name at the end of the block, or is removed after an error."""
    partly = folder.with_name(f".{folder.name}.partly")
    shutil.rmtree(partly, ignore_errors=True)
    partly.mkdir(parents=True)
    try:
        yield partly
        partly.rename(folder)
    finally:
        shutil.rmtree(partly, ignore_errors=True)
