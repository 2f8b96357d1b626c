"""From settings to the parts of one stage. Every worker calls this for itself: no code crosses the wire."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dni.errors import ConfigError, PartitionError
from dni.models import char_mlp, image_model, initialise, language_model, two_clocks
from dni.partition import partition
from dni.recurrent import Chain
from dni.retold import RetellingStage
from dni.schedule import Course, schedule, set_course
from dni.stage import Stage
from dni.stash import StashingStage
from workers.config import Config
from workers.schema import DepthMethod, InitKind, ModelKind, OptimizerConfig, OptimizerKind, ScheduleKind

log = logging.getLogger(__name__)


def build_chains(config: Config) -> list[Chain]:
    """The whole model from the seed, cut into its parts: one per stage, or several. Raises PartitionError."""
    model, symbols = config.model, config.model.symbols
    if symbols is None or model.input_symbols is None:
        raise ConfigError("model.symbols and model.input_symbols are not set: resolve the settings with the data first")
    torch.manual_seed(config.seed)
    if model.image is not None:
        whole = image_model(model.kind.name, model.image, symbols, model.units, model.layers, dropout=model.dropout)
    elif model.kind is ModelKind.two_clocks:
        whole = two_clocks(config.data.side**2 + 1, model.units, symbols)
    elif model.kind is ModelKind.mlp:
        whole = char_mlp(symbols, model.units, model.layers, inputs=model.input_symbols, dropout=model.dropout)
    else:
        whole = language_model(
            model.kind.name, symbols, model.units, model.layers,
            inputs=model.input_symbols, heads=model.heads, memory=model.memory, dropout=model.dropout,
        )  # fmt: skip
    if model.init is not InitKind.default:
        initialise(whole, model.init.name)  # before it is cut: the same for any number of stages
    if model.cut_at:
        return partition(whole, cut_at=model.cut_at)
    try:
        return partition(whole, stages=config.parts)
    except PartitionError as error:
        if config.parts == config.stages:
            raise
        chunks = f"stages={config.stages} with depth.chunks={config.depth.chunks} make {config.parts} parts"
        raise PartitionError(f"{chunks}: {error}") from error


def activation_shape(config: Config, index: int) -> tuple[int, ...]:
    """What one example, or one time step of it, is at the output of a stage: (D,), or (C, H, W) of feature maps."""
    if config.model.image is None:
        return (config.model.units,)  # between any two layers
    with torch.device("meta"):  # shapes alone
        x = torch.empty(1, *config.model.image)
        for chain in build_chains(config)[: index + 1]:
            x, _ = chain.eval()(x)
    return tuple(x.shape[1:])


def build_stage(config: Config, index: int) -> Stage:
    """The part of the model with the given index, its optimizer, its device and its random state."""
    chain = build_chains(config)[index]
    device = device_of(config, index % config.stages)
    chain.to(device)
    settings: dict[str, Any] = {
        "clip": config.optimizer.clip,
        "accumulate": config.optimizer.accumulate,
        "device": device,
        "seed": config.seed * 1000 + index,
        "first": index == 0 or config.depth.method is DepthMethod.local,
        "chunk": config.chunk,
    }
    optimizer = build_optimizer(chain, config.optimizer)
    settings["schedule"] = build_schedule(optimizer, config)
    if config.depth.method is DepthMethod.delayed and index < config.stages - 1:
        return StashingStage(chain, optimizer, stash=config.depth.stash, **settings)
    if config.mix and 0 < index < config.stages - 1:
        return RetellingStage(chain, optimizer, mix=config.mix, memory=config.depth.window + 2, **settings)
    return Stage(chain, optimizer, **settings)


def build_optimizer(module: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's optimizer of that kind, over the module's parameters."""
    parameters, rate, decay = module.parameters(), settings.learning_rate, settings.weight_decay
    betas, momentum = (settings.beta1, settings.beta2), settings.momentum
    if settings.kind is OptimizerKind.adam:
        return torch.optim.Adam(parameters, rate, betas, weight_decay=decay, fused=True)
    if settings.kind is OptimizerKind.adamw:
        return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True)
    if settings.kind is OptimizerKind.nadam:
        rising = settings.momentum_decay
        return torch.optim.NAdam(
            parameters, rate, betas, weight_decay=decay, momentum_decay=rising, decoupled_weight_decay=True
        )
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=settings.nesterov)


def build_schedule(optimizer: torch.optim.Optimizer, config: Config) -> torch.optim.lr_scheduler.LRScheduler | None:
    """What moves the optimizer's rate from step to step; None if nothing does."""
    own = config.optimizer
    if own.schedule is ScheduleKind.constant and not own.warmup_steps:
        return None
    return schedule(optimizer, course_of(config))


def course_of(config: Config) -> Course:
    """How the learning rate goes over the steps of a run."""
    own = config.optimizer
    return Course(own.schedule.name, own.warmup_steps, config.decay_steps or 1, own.final)


def follow_course(stage: Stage, config: Config) -> None:
    """Once a checkpoint is loaded: the schedule of these settings, which may end at another step than the one saved."""
    if isinstance(stage.schedule, LambdaLR):
        set_course(stage.schedule, course_of(config))


def device_of(config: Config, index: int) -> torch.device:
    """The stage's device; `auto` spreads stages over the GPUs there are. Raises ConfigError if it is not there."""
    name = config.devices[index if len(config.devices) > 1 else 0]
    gpus = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda", index % gpus) if gpus else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"devices: stage {index} asks for {name!r}: use auto, cpu or cuda:N") from error
    if (device.type == "cuda" and (device.index or 0) >= gpus) or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"devices: stage {index} asks for {name!r}, but this machine has {gpus} GPUs: use auto or cpu"
        )
    return device
