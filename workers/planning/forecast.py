"""What each method would make of a partition, by the simulation of `dni-simulate`."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from dni.errors import ConfigError
from dni.methods.pipelined import Chunked
from workers.build.device import device_of
from workers.config.settings import Config
from workers.planning.partitions import Partition, StageCost
from workers.simulation.model import SYNCHRONOUS, predict
from workers.simulation.scenario import Scenario

#: In the order of the tables.
METHODS = ("backprop", "synthetic", "local", "delayed", "gpipe", "1f1b", "interleaved_1f1b", "zero_bubble")

STEPS = 400


@dataclass(frozen=True)
class Circumstances:
    """What is not measured."""

    delay_s: float  #: one way, of each link
    bytes_per_s: float | None  #: of each direction of a link; None: no limit
    overhead_s: float  #: of a stage, for each frame that it sends or receives
    window: int  #: W, frames in flight
    microbatches: int  #: M of the pipelines


@dataclass(frozen=True)
class Forecast:
    """What a method would reach with one partition."""

    method: str
    partition: str
    updates_per_s: float
    busy: list[float]  #: share of the time in which each stage works, (K,)
    bubble: float  #: share of the time of all stages together in which they wait
    update_s: list[float]  #: of one update at the cut after each stage, of a predictor or a local head, (K,)
    here_per_s: float  #: updates a second, at most, where all stages share this machine's cores


@dataclass(frozen=True)
class Measured:
    """A partition, and what was measured of it."""

    whole: Partition  #: of batches
    parted: Partition | None  #: the same cut, of microbatches; None: the pipelines are left out
    cuts: dict[str, list[float]]  #: seconds of the updates at the cuts in depth, by method, (K,)
    time: list[float]  #: seconds of the updates at the cuts in time, (K,)
    refused: dict[str, str]  #: methods that could not be measured, and why
    most_parts: int  #: into which the model could be cut


def forecast(config: Config, found: Measured, method: str, given: Circumstances) -> Forecast:
    """Raises ConfigError, saying why, for a method that this model, cut like this, cannot be trained with."""
    refuse(config, found, method, given)
    scenario = scenario_of(config, found, method, given)
    told = predict(method, scenario)
    busy = sum(told.busy) / len(told.busy)
    here = min(told.updates_per_s, _most_here(config, found, method, given))
    updates = [*scenario.update_s]
    return Forecast(method, found.whole.name, told.updates_per_s, told.busy, 1 - busy, updates, here)


def refuse(config: Config, found: Measured, method: str, given: Circumstances) -> None:
    """Raise ConfigError for what the simulation does not know to be impossible."""
    if method in found.refused:
        raise ConfigError(found.refused[method])
    if _pipelined(method) and found.parted is None:
        raise ConfigError(
            f"pipelines: {given.microbatches} microbatches are no equal parts of data.batch={config.data.batch}: "
            "give --microbatches N"
        )
    if method == "1f1b" and given.microbatches < config.stages:
        raise ConfigError(f"1f1b: give --microbatches {config.stages} or more, one for each stage")
    parts = config.stages * _chunks(config)
    if method == "interleaved_1f1b" and found.most_parts < parts:
        raise ConfigError(
            f"interleaved_1f1b: {config.stages} stages of {_chunks(config)} parts need {parts} layers with parameters, "
            f"and this model has {found.most_parts}"
        )


def scenario_of(config: Config, found: Measured, method: str, given: Circumstances) -> Scenario:
    """What is simulated of a method: a pass that is emulated lasts as long as the settings say."""
    least = config.emulate
    forward, backward, rest, update = _times(config, found, method, given)
    cuts = [max(seconds, least.cut_ms / 1e3) for seconds in update]
    return Scenario(
        forward_s=tuple(max(seconds, least.forward_ms / 1e3) for seconds in forward),
        backward_s=tuple(max(b, least.backward_ms / 1e3) + r for b, r in zip(backward, rest, strict=True)),
        update_s=tuple(cuts if method in found.cuts else update),
        overhead_s=given.overhead_s,
        delay_s=given.delay_s,
        bytes_per_s=given.bytes_per_s,
        cut_bytes=found.whole.cut_bytes[: config.stages - 1],
        window=given.window,
        batch=config.data.batch,
        microbatches=given.microbatches if _pipelined(method) else None,
        chunks=_chunks(config),
        steps=STEPS,
    )


def _times(config: Config, found: Measured, method: str, given: Circumstances) -> tuple[list[float], ...]:
    """Seconds of a batch by stage: forward, backward, what follows a backward pass, and the update at the cut."""
    parted = found.parted if _pipelined(method) else None
    stages, parts = (found.whole.stages, 1) if parted is None else (parted.stages, given.microbatches)
    none = [0.0] * config.stages
    rest = [stage.update_s for stage in stages]
    if parted is None:
        rest = [update + at_end for update, at_end in zip(rest, found.time, strict=True)]
    forward, backward = ([parts * seconds for seconds in each] for each in zip(*map(_passes, stages), strict=True))
    return forward, backward, rest, found.cuts.get(method, none)


def _passes(stage: StageCost) -> tuple[float, float]:
    return stage.forward_s, stage.backward_s


def _most_here(config: Config, found: Measured, method: str, given: Circumstances) -> float:
    """Updates a second at which all stages together keep the cores of this machine busy; of a GPU nothing is said."""
    if any(device_of(config, index).type != "cpu" for index in range(config.stages)):
        return math.inf
    return (os.cpu_count() or 1) / config.torch_threads / sum(map(sum, _times(config, found, method, given)))


def _pipelined(method: str) -> bool:
    return method in SYNCHRONOUS and method != "backprop"


def _chunks(config: Config) -> int:
    return config.depth.virtual_stages if isinstance(config.depth, Chunked) else 2
