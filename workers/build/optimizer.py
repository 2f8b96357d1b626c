"""Optimizer and schedule of the learning rate, tried before a run starts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from dni.errors import ConfigError
from dni.lr_schedule import start_schedule
from dni.misuse import refuse_optimizer
from workers.config.plugins import TARGET, target_of
from workers.config.settings import Config


def try_optimizers(config: Config, chains: Sequence[nn.Module]) -> None:
    """Make the optimizer and the schedule of every stage. Raises ConfigError if one cannot be made, or not stepped."""
    own = config.optimizer
    for chain in chains:
        with _named("optimizer", own):
            optimizer = own.build(chain.parameters())
            refuse_optimizer(chain, optimizer)
        with _named("optimizer.schedule", own.schedule):
            schedule = start_schedule(own.schedule, optimizer, config.decay_steps)
            if schedule is not None:
                schedule.step()


@contextmanager
def _named(section: str, plugin: Any) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever a user's class raises
        said = " ".join(str(error).split()) or "no message"
        raise ConfigError(
            f"{section}.{TARGET}={target_of(type(plugin))} cannot be used ({type(error).__name__}: {said}): change its "
            "settings, or its `build`"
        ) from error
