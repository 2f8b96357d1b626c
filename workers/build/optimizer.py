"""Optimizer and learning-rate schedule, tried before a run starts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from dni.errors import ConfigError
from dni.lr_schedule import start_schedule
from dni.misuse import refuse_optimizer
from dni.optimizers import Optimizer
from dni.stages.tied import replicas_of, tied
from dni.types import StagePlace
from workers.build.own_code import as_config_error
from workers.build.trace import is_traced
from workers.config.plugins import TARGET, target_of
from workers.config.settings import Config


def try_optimizers(config: Config, chains: Sequence[nn.Module]) -> None:
    """Build the optimizer and the schedule of every stage. Raises ConfigError if building or a schedule step fails."""
    settings = config.optimizer
    ties = tied(chains)
    _refuse_traced(settings, chains)
    for index, chain in enumerate(chains):
        _refuse_frozen(config, index, chain)
        replicas = replicas_of(ties, index)
        with _failures_of("optimizer", settings):
            optimizer = build_optimizer(config, chain, replicas, StagePlace(index, len(chains)))
            refuse_optimizer(chain, optimizer, replicas=replicas)
        with _failures_of("optimizer.schedule", settings.schedule):
            schedule = start_schedule(settings.schedule, optimizer, config.decay_steps)
            if schedule is not None:
                schedule.step()


def _refuse_frozen(config: Config, stage: int, chain: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in chain.parameters()):
        layers = ", ".join(chain._modules)
        raise ConfigError(
            f"model={config.model.name}: stage {stage} ({layers}) has no parameter that requires a gradient: begin the "
            "next stage at a later layer, or call requires_grad_() on those to be trained"
        )


def _refuse_traced(settings: Optimizer, chains: Sequence[nn.Module]) -> None:
    if settings.by_layer and any(is_traced(chain) for chain in chains):
        raise ConfigError(
            f"optimizer={type(settings).__name__.lower()} treats embeddings and scores apart, and a traced model does "
            "not say which these are: give the model as an ordered list of parts, or use optimizer=adamw"
        )


def build_optimizer(
    config: Config, module: nn.Module, replicas: Collection[str], place: StagePlace
) -> torch.optim.Optimizer:
    """Build the optimizer of a stage; `replicas`: names of its parameters that an earlier stage trains."""
    own = [parameter for name, parameter in module.named_parameters() if name not in replicas]
    return config.optimizer.build_for(module, own, place)


def _failures_of(section: str, plugin: Any) -> AbstractContextManager[None]:
    return as_config_error(
        f"{section}.{TARGET}={target_of(type(plugin))} cannot be used", "; change its settings, or its `build`"
    )
