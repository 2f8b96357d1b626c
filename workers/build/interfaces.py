"""From settings to the interfaces at the cuts of one stage."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from dni.data.source import Source
from dni.errors import ConfigError
from dni.interfaces.base import Interface, ZeroInterface
from dni.interfaces.input import InputInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.per_tensor import PerTensorInterface
from dni.lr_schedule import rate_factor
from dni.methods.cut import CutContext, InputContext, TimeCutContext
from dni.named_tensors import UNNAMED
from dni.predictors.base import Predictor
from dni.recurrent import Chain
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap
from workers.build.heads.blocks import blocks_like
from workers.build.heads.copies import copied_layers
from workers.build.heads.reconstruction import with_reconstruction
from workers.build.model import build_chains, dtype_of
from workers.build.shapes import activation_shape, activation_specs
from workers.comm.contents import Rows, TensorSpec
from workers.config.settings import Config

Context = TypeVar("Context", bound=CutContext)

_META = torch.device("meta")

#: Largest predictor of feature maps; with Adam's moments and the gradient each weight takes 16 bytes.
MOST_WEIGHTS = 2**24


def goes_back(config: Config, index: int, step: int) -> bool:
    """Return whether a stage goes back at a step and sends a gradient. Every stage can ask this for every other."""
    return config.depth.updates(config.seed, index, step)


def depth_interface(config: Config, index: int, stage: Stage) -> Interface:
    """Build the interface at the output of a stage."""
    if index == config.stages - 1:
        return _counting(config, LossInterface(config.loss))
    contexts = depth_contexts(config, index, stage.device)
    torch.manual_seed(_seed(config, index))
    made = {
        name: with_reconstruction(config, context, config.depth.interface(_beside(stage, context)))
        for name, context in contexts.items()
    }
    inner = {name: _counting(config, each) for name, each in made.items()}
    return inner[UNNAMED] if UNNAMED in inner else PerTensorInterface(inner)


def _counting(config: Config, interface: Interface) -> Interface:
    """Let an interface, and those that it wraps, count the labels of a window as the data does."""
    each: Interface | None = interface
    while each is not None:
        each.count = config.data.divisor
        each = getattr(each, "inner", None)
    return interface


def time_interface(config: Config, index: int, stage: Stage, source: Source | None = None) -> Interface:
    """Build the interface at the end of a stage's windows. `source`: of the training windows."""
    if not _state_features(stage.module):
        return ZeroInterface()
    torch.manual_seed(_seed(config, config.stages + index))
    return config.time.interface(_beside(stage, time_context(config, index, stage.module, stage.device, source)))


def input_interface(config: Config, index: int, device: torch.device) -> InputInterface:
    """Build the interface that predicts the input of stage `index`, 1 or more."""
    context = input_context(config, index, device)
    torch.manual_seed(config.seed * 1000 + 900 + index)  # the context has drawn weights
    return config.depth.input_interface(context)


def bootstrap(config: Config, index: int, stage: Stage, depth: Interface, time: Interface) -> Bootstrap:
    """Build what makes the targets of the time cut."""
    if not _state_features(stage.module):
        return Bootstrap()
    torch.manual_seed(_seed(config, 2 * config.stages + index))
    context = _beside(stage, time_context(config, index, stage.module, stage.device))
    return config.time.targets(context, stage, depth, time)


def _beside(stage: Stage, context: Context) -> Context:
    """Return a context whose models can follow the stage's schedule of the learning rate."""
    return replace(context, rate_factor=partial(rate_factor, stage.optimizer))


def depth_contexts(config: Config, index: int, device: torch.device) -> dict[str, CutContext]:
    """Return what a method knows of each tensor with a gradient that a stage sends; a single tensor's name is ""."""
    specs = activation_specs(config, index).items()
    return {name: _depth_context(config, index, device, spec) for name, spec in specs if spec.dtype.is_floating_point}


def _depth_context(config: Config, index: int, device: torch.device, spec: TensorSpec) -> CutContext:
    shape = tuple(size or 0 for size in spec.shape)
    return CutContext(
        index,
        shape=shape,
        rows=spec.rows is Rows.LABELS,
        autocast=dtype_of(config),
        block=partial(blocks_like, config, index),
        copies=partial(copied_layers, config, index, shape),
        device=device,
        predictor=config.predictor.depth,
        loss=config.loss,
        expects=partial(goes_back, config, index + 1),
        **_of_the_run(config),
    )


def time_context(
    config: Config, index: int, module: Chain, device: torch.device, source: Source | None = None
) -> TimeCutContext:
    """Return what a method knows of the cut after each window of a stage that carries state."""
    return TimeCutContext(
        index,
        shape=(_state_features(module),),
        device=device,
        predictor=config.predictor.time,
        expects=lambda step: goes_back(config, index, step + 1),
        window=config.window,
        module=module,
        rest=None if source is None else source.rest,
        loss=config.loss,
        **_of_the_run(config),
    )


def input_context(config: Config, index: int, device: torch.device) -> InputContext:
    """Return what a method knows of the cut before stage `index`, 1 or more."""
    model = config.model
    with _META:
        carries_state = any(chain.initial_state(1) for chain in build_chains(config)[:index])
    return InputContext(
        index,
        shape=activation_shape(config, index - 1),
        data_shape=None if model.input_shape is None else tuple(model.input_shape),
        symbols=model.input_symbols or 0,
        carries_state=carries_state,
        device=device,
    )


class Learner(NamedTuple):
    """A module that learns at a cut."""

    cut: str  #: "depth" or "time"
    place: str  #: of its weights in the state of the interface (`Interface.learners`)
    module: nn.Module


def learners(config: Config, index: int, chain: Chain) -> list[Learner]:
    """Build the modules that learn at the cuts of a stage, with names and shapes alone."""
    depth: dict[str, nn.Module] = {}
    time: dict[str, nn.Module] = {}
    if config.pipelined:
        return []
    with _META:
        if index < config.stages - 1:
            depth = _depth_learners(config, index)
        if _state_features(chain):
            time = config.time.learners(time_context(config, index, chain, _META))
    return [Learner(cut, *each) for cut, found in (("depth", depth), ("time", time)) for each in found.items()]


def refuse_large(config: Config) -> None:
    """Raise ConfigError if a predictor of feature maps would have too many weights, or if an input cannot be
    predicted."""
    for index in range(0 if config.pipelined else config.stages - 1):
        shapes = [context.shape for context in depth_contexts(config, index, _META).values()]
        largest = max(shapes, key=len)
        if len(largest) >= 3:
            _refuse_large_predictor(config, index, largest)
    for index in range(1, config.stages if config.depth.predicts_inputs else 0):
        config.depth.check_input(input_context(config, index, _META))


def _depth_learners(config: Config, index: int) -> dict[str, nn.Module]:
    """Return the modules that learn at a cut, by the place of their weights in the interface's state."""
    found: dict[str, nn.Module] = {}
    for name, context in depth_contexts(config, index, _META).items():
        for place, module in config.depth.learners(context).items():
            found[f"{name}.{place}" if name else place] = module
    return found


def _refuse_large_predictor(config: Config, index: int, shape: tuple[int, ...]) -> None:
    with _META:  # only counted
        modules = _depth_learners(config, index).values()
    weights = sum(p.numel() for module in modules if isinstance(module, Predictor) for p in module.parameters())
    if weights > MOST_WEIGHTS:
        raise ConfigError(
            f"predictor={config.predictor.depth.name} would have {weights:,} weights for the {shape} feature "
            f"maps of stage {index}, more than {MOST_WEIGHTS:,}: use predictor=conv, or predictor=critic"
        )


def _of_the_run(config: Config) -> dict[str, Any]:
    """Return the fields of a context that are the same at every cut."""
    return {
        "stages": config.stages,
        "classes": config.model.symbols or 0,
        "inputs": config.model.input_symbols or 0,
        "learning_rate": config.optimizer.learning_rate,
        "local_classes": config.data.local_classes,
        "base_seed": _seed(config, 0),
    }


def _seed(config: Config, salt: int) -> int:
    return config.seed * 1000 + 500 + salt


def _state_features(module: Chain) -> int:
    """Return F of the stage's packed state."""
    return sum(s.numel() for s in module.initial_state(1))
