"""Optimizer and learning-rate schedule, tried before a run starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from dni.errors import ConfigError
from dni.lr_schedule import start_schedule
from dni.misuse import refuse_optimizer
from workers.build.own_code import as_config_error
from workers.config.plugins import TARGET, target_of
from workers.config.settings import Config


def try_optimizers(config: Config, chains: Sequence[nn.Module]) -> None:
    """Build the optimizer and the schedule of every stage. Raises ConfigError if building or a schedule step fails."""
    settings = config.optimizer
    for stage, chain in enumerate(chains):
        _refuse_frozen(config, stage, chain)
        with _failures_of("optimizer", settings):
            optimizer = settings.build(chain.parameters())
            refuse_optimizer(chain, optimizer)
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


def _failures_of(section: str, plugin: Any) -> AbstractContextManager[None]:
    return as_config_error(
        f"{section}.{TARGET}={target_of(type(plugin))} cannot be used", "; change its settings, or its `build`"
    )
