"""Optimizer and learning-rate schedule, tried before a run starts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from dni.lr_schedule import start_schedule
from dni.misuse import refuse_optimizer
from dni.stages.tied import replicas_of, tied
from workers.build.own_code import as_config_error
from workers.build.tied import own_parameters
from workers.config.plugins import TARGET, target_of
from workers.config.settings import Config


def try_optimizers(config: Config, chains: Sequence[nn.Module]) -> None:
    """Build the optimizer and the schedule of every stage. Raises ConfigError if building or a schedule step fails."""
    settings = config.optimizer
    ties = tied(chains)
    for index, chain in enumerate(chains):
        replicas = replicas_of(ties, index)
        with _failures_of("optimizer", settings):
            optimizer = settings.build(own_parameters(chain, replicas))
            refuse_optimizer(chain, optimizer, replicas=replicas)
        with _failures_of("optimizer.schedule", settings.schedule):
            schedule = start_schedule(settings.schedule, optimizer, config.decay_steps)
            if schedule is not None:
                schedule.step()


def _failures_of(section: str, plugin: Any) -> AbstractContextManager[None]:
    return as_config_error(
        f"{section}.{TARGET}={target_of(type(plugin))} cannot be used", "; change its settings, or its `build`"
    )
