"""A plan: the layers of a model, measured; partitions of them; and what each method would make of each partition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dni.errors import ConfigError, DataError, DniError, PartitionError
from dni.models.base import TiedKind
from dni.stages.partition import partition
from workers.build.data import open_data, with_shapes
from workers.build.device import device_of
from workers.build.model import build_whole
from workers.config.settings import Config
from workers.planning.cut_cost import CutCosts
from workers.planning.forecast import METHODS, Circumstances, Forecast, Measured, forecast
from workers.planning.measure import LayerCost, measure_layers
from workers.planning.partitions import Partition, partition_of
from workers.planning.split import refuse_too_many, split_by_time, typed_points, with_points


@dataclass(frozen=True)
class Plan:
    """What was measured, and what follows from it."""

    device: str
    torch_threads: int
    batch: int  #: B, examples or streams of a step
    window: int  #: T
    given: Circumstances
    layers: list[LayerCost]
    partitions: list[Partition]  #: the last one by measured times
    forecasts: list[Forecast]
    notes: list[str]

    @property
    def to_type(self) -> str:
        """The setting that cuts a run by the measured times."""
        return typed_points(self.partitions[-1].split_points)


def with_known_shapes(config: Config) -> tuple[Config, list[str]]:
    """The settings, filled in from the data, or from what its files are known to hold if they are not there; and notes.

    Raises DataError for data that is not there and of which nothing is known.
    """
    try:
        data = open_data(config)
    except DataError as error:
        if config.data.known_shapes is None:
            raise
        symbols, shape = config.data.known_shapes
        said = f"data={config.data.name} was not read ({error}): made-up inputs of shape {shape}, {symbols} labels"
        return with_shapes(config, symbols, 0, shape), [said]
    return with_shapes(config, data.symbols, data.input_symbols, data.input_shape), []


def make_plan(config: Config, given: Circumstances, notes: list[str]) -> Plan:
    """Measure and forecast. `config`: checked, with known shapes. Raises ConfigError for a model that cannot be cut."""
    if config.stages == 1:
        raise ConfigError("stages=1 leaves nothing to cut: set stages=2 or more")
    refuse_too_many(config)
    costs = measure_layers(config)
    parted, refused = _of_microbatches(config, given)
    cuts = _cuts(config, costs, notes := [*notes])
    found = [partition_of(name, costs, points, config.stages) for name, points in cuts.items()]
    timer, forecasts, why = CutCosts(), list[Forecast](), dict[str, None]()
    for each in found:
        measured = _measured(config, each, costs, parted, timer, refused, why)
        for method in METHODS:
            try:
                forecasts.append(forecast(config, measured, method, given))
            except ConfigError as error:
                why[f"left out: {error}"] = None
    device = str(device_of(config, 0))
    notes += [*why, *_assumptions(config)]
    return Plan(device, config.torch_threads, config.data.batch, config.window, given, costs, found, forecasts, notes)


def _cuts(config: Config, costs: list[LayerCost], notes: list[str]) -> dict[str, tuple[str, ...]]:
    """Split points by where they come from; equal ones once. The last ones are those by measured times."""
    found = {"settings": tuple(config.model.split_points)} if config.model.split_points else {}
    try:
        chains = partition(build_whole(config), stages=config.parts, tied=config.model.tied)
        found["parameters"] = tuple(next(iter(chain._modules)) for chain in chains[1:])
    except PartitionError as error:
        notes.append(f"by parameters: {error}")
    measured = tuple(split_by_time(config, costs))
    names: dict[tuple[str, ...], list[str]] = {}
    for name, points in [*found.items(), ("measured", measured)]:
        names.setdefault(points, []).append(name)
    names[measured] = names.pop(measured)
    return {", ".join(each): points for points, each in names.items()}


def _of_microbatches(config: Config, given: Circumstances) -> tuple[list[LayerCost] | None, dict[str, str]]:
    """The layers again, in microbatches; None if a batch cannot be parted. And methods that are left out, with why."""
    if config.data.batch % given.microbatches:
        return None, {}
    try:
        return measure_layers(config, config.data.batch // given.microbatches), {}
    except ConfigError as error:
        return None, {
            name: f"{name}: {error}" for name in METHODS if "1f1b" in name or name in ("gpipe", "zero_bubble")
        }


def _measured(
    config: Config,
    cut: Partition,
    costs: list[LayerCost],
    parted: list[LayerCost] | None,
    timer: CutCosts,
    refused: dict[str, str],
    why: dict[str, None],
) -> Measured:
    config, refused = with_points(config, cut.split_points), {**refused}
    cuts: dict[str, list[float]] = {}
    if config.parts == config.stages:  # else a stage has several outputs, none of which is the cut of these methods
        for name in ("synthetic", "local"):
            try:
                cuts[name] = timer.in_depth(config, name)
            except DniError as error:
                refused[name] = f"{name}: {error}"
    small = None if parted is None else partition_of(cut.name, parted, cut.split_points, config.stages)
    most = sum(cost.parameter_bytes > 0 for cost in costs)
    return Measured(cut, small, cuts, _at_ends(config, timer, why), refused, most)


def _at_ends(config: Config, timer: CutCosts, why: dict[str, None]) -> list[float]:
    """Seconds of the updates at the cuts in time; zeros, with a note, if they cannot be measured by themselves."""
    if config.pipelined:
        return [0.0] * config.stages
    try:
        return timer.in_time(config)
    except DniError as error:
        why[f"the updates of time={config.time.name} count nothing: {error}"] = None
        return [0.0] * config.stages


def _assumptions(config: Config) -> Iterator[str]:
    if config.time.answers:
        yield f"pipelines do not go with time={config.time.name}: their rows are of time=truncated"
    if config.parts > config.stages:
        yield "a stage holds several parts, added up: synthetic, local and delayed would need stages cut once"
    if config.model.tied is TiedKind.sum:
        yield "model.tied=sum: values and gradients of shared parameters, which cross the cuts too, are not counted"
    if max(config.periods) > 1:
        yield f"update periods {config.periods}: rates are of stages that all work at every step"
