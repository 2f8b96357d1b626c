"""A run that goes on with its model cut elsewhere: what that refuses, what is left behind, what begins anew."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dni.errors import ResumeError
from dni.recurrent import Chain
from dni.stages.tied import tied_names
from workers.build.interfaces import learners
from workers.build.warm_start import chains_without_content, layers_of
from workers.config.settings import Config
from workers.repartition.matches import Matches, drawing_numbers, layers_by_name, match_all
from workers.repartition.saved import SavedPart, read_parts, saved_layers
from workers.repartition.stage import COMMON, VERSIONS, WINDOWS, even

log = logging.getLogger(__name__)


def cut_as(config: Config, before: Config) -> Config:
    """The earlier settings with the stages and cuts of `config`, in which the two may differ."""
    model = before.model
    if type(model) is type(config.model):
        model = replace(model, split_points=config.model.split_points)
    return replace(before, stages=config.stages, model=model)


def settle_cuts(config: Config, before: Config, folder: Path, step: int) -> None:
    """Say what goes over where the checkpoint is cut elsewhere than the model. Raises ResumeError where it cannot.

    `before`: the settings of the record, which say where checkpoints of earlier versions were cut.
    """
    chains = chains_without_content(config)
    here, there = [layers_of(chain) for chain in chains], saved_layers(folder, step)
    known = there if there is not None else [layers_of(chain) for chain in chains_without_content(before)]
    if here == known:
        return
    if there is None:
        raise ResumeError(
            f"resume={folder}: the checkpoint of step {step} is of an earlier version, and cannot be cut elsewhere: go "
            f"on with stages={len(known)} as it was, and cut the next one"
        )
    saved = read_parts(folder, step)
    _refuse(config, saved, layers_by_name(chains), folder, step)
    _refuse_joined(saved, chains, folder)
    _tell(config, saved, chains, folder)


def _refuse(config: Config, saved: Sequence[SavedPart], layers: Iterable[str], folder: Path, step: int) -> None:
    way = (
        f"leave stages={len(saved)} and the cuts as they were, or take the weights alone into a new run: "
        f"start_from={folder} instead of resume"
    )
    here, there = sorted(layers), sorted(name for part in saved for name in part.layers)
    if here != there:
        apart = sorted({*here} ^ {*there})
        raise ResumeError(
            f"resume={folder}: its model has other layers than this one ({', '.join(apart)}): train with the code that "
            "the run began with"
        )
    if max(config.periods) > 1:
        raise ResumeError(
            f"resume={folder}: depth={config.depth.name} has an update period for every stage, by which its layers "
            f"have learned: {way}"
        )
    windows = sum(len(part.state["stage"].get(WINDOWS) or {}) for part in saved)
    if windows and not config.depth.takes_gaps:  # one that takes gaps goes on without them
        raise ResumeError(
            f"resume={folder}: at step {step} the stages of depth={config.depth.name} keep {windows} windows until "
            f"their gradients come, each with its input at the cuts as they were: {way}"
        )


def _refuse_joined(saved: Sequence[SavedPart], chains: Sequence[Chain], folder: Path) -> None:
    """Refuse to make one parameter of two that were trained apart (model.tied=copy)."""
    for name, first in tied_names(chains).items():
        values = [part.state["stage"]["module"].get(each) for each in (first, name) for part in saved]
        one, other = (value for value in values if value is not None)
        if not torch.equal(one, other):
            raise ResumeError(
                f"resume={folder}: {first} and {name} were trained apart, and would be one parameter here: cut the "
                "model between them"
            )


def _tell(config: Config, saved: Sequence[SavedPart], chains: Sequence[Chain], folder: Path) -> None:
    """One line; a warning if anything is left behind, begins anew or counts otherwise from now on."""
    found = match_all(saved, chains)
    now, was = ([names[0] for names in cuts] for cuts in (map(layers_of, chains), (part.layers for part in saved)))
    what = f"resume={folder} goes on in {_some(config.stages, 'stage')} ({_cut(now)}; the checkpoint: {_cut(was)})"
    told = {
        "left behind": [*_left_behind(saved, found), *_lost_inside(saved, found, chains)],
        "beginning anew": [*_anew(config, found, chains)],
        "counted otherwise": [*_otherwise(config, len(saved))],
    }
    said = [f"{title}: {', '.join(names)}" for title, names in told.items() if names]
    if said:
        log.warning("%s; %s", what, "; ".join(said))
    else:
        log.info("%s; all of it goes over", what)


def _left_behind(saved: Sequence[SavedPart], found: Sequence[Matches]) -> Iterator[str]:
    """What was at the cuts that are no more, and in the states that are carried in another arrangement."""
    for part in saved:
        cut = any(one.cut is part for one in found)
        if not cut and part.state["depth"]:
            yield f"what learns in depth after {part.layers[-1]}"
        pending = [target for target in part.state["early"] if target[1] is not None]
        if not cut and pending:
            yield f"{_some(len(pending), 'target')} for it that had come early"
        if part.state["time"] and not any(one.carrying is part for one in found):
            yield f"what learns in time in {_span(part.layers)}"
        if any(map(_holds, part.state["bootstrap"].values())) and not any(one.same is part for one in found):
            yield f"what targets in time of {_span(part.layers)} are made of"
        if part.state.get("piggyback", {}).get("tied", {}).get("sums"):
            yield f"gradients of tied weights on their way at {_span(part.layers)}"
        if "inputs" in part.state["upstream"] and not any(one.entry is part for one in found):
            yield f"the model of inputs before {part.layers[0]}"
        if any(one.same is part for one in found):
            continue
        if windows := len(part.state["stage"].get(WINDOWS) or {}):
            yield f"corrections of {_some(windows, 'window')} of {_span(part.layers)}"
        known = (*COMMON, WINDOWS, VERSIONS)
        own = [key for key, value in part.state["stage"].items() if key not in known and _holds(value)]
        if own:
            yield f"what the stage of {_span(part.layers)} keeps besides ({', '.join(own)})"


def _lost_inside(saved: Sequence[SavedPart], found: Sequence[Matches], chains: Sequence[Chain]) -> Iterator[str]:
    """What parts of the model cannot put together from what several had."""
    layers = layers_by_name(chains)
    for one, chain in zip(found, chains, strict=True):
        own = layers_of(chain)
        if drawing_numbers(own, layers) and one.drawing is None:
            yield f"the random state of the dropout in {_span(own)}"
        if not even([part.state["stage"]["gathered"] for part in one.sharing]):
            yield f"gradients of {_span(own)} that were gathered for the next optimizer step"


def _anew(config: Config, found: Sequence[Matches], chains: Sequence[Chain]) -> Iterator[str]:
    for index, (one, chain) in enumerate(zip(found, chains, strict=True)):
        names = layers_of(chain)
        for cut in dict.fromkeys(learner.cut for learner in learners(config, index, chain)):
            if (one.cut if cut == "depth" else one.carrying) is None:
                yield f"what learns in {cut} " + (f"after {names[-1]}" if cut == "depth" else f"in {_span(names)}")


def _otherwise(config: Config, parts: int) -> Iterator[str]:
    """Settings whose meaning depends on the stages."""
    if config.optimizer.clip is not None and not config.optimizer.over_all_stages:
        yield f"optimizer.clip={config.optimizer.clip:g} limits the gradient of each part by itself"
    stages = parts // (config.parts // config.stages)  # that there were
    if config.pipelined and config.microbatches != config.depth.microbatches_of(stages):
        yield f"a batch has {config.microbatches} microbatches, not {config.depth.microbatches_of(stages)}"


def _holds(value: object) -> bool:
    return isinstance(value, Tensor) or bool(value)


def _cut(first: Sequence[str]) -> str:
    """Where a model is cut whose parts begin with these layers."""
    return f"cut before {', '.join(first[1:])}" if len(first) > 1 else "not cut"


def _some(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count > 1 else ''}"


def _span(layers: Sequence[str]) -> str:
    return layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
