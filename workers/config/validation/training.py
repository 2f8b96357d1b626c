"""The rules between settings of the optimizer and its schedule."""

from __future__ import annotations

from dni.errors import ConfigError
from workers.config.schema import OptimizerKind, ScheduleKind
from workers.config.settings import Config


def check_training(config: Config) -> None:
    """Refuse what would do nothing, or not what it says. Raises ConfigError."""
    _check_nesterov(config)
    _check_schedule(config)


def _check_nesterov(config: Config) -> None:
    kind, momentum = config.optimizer.kind, config.optimizer.momentum
    if not config.optimizer.nesterov:
        return
    if kind is not OptimizerKind.sgd:
        raise ConfigError(
            f"optimizer.nesterov=true is for sgd, and optimizer.kind={kind.name}: set optimizer.kind=nadam and "
            "optimizer.nesterov=false"
        )
    if not momentum:
        raise ConfigError("optimizer.nesterov=true needs momentum: set optimizer.momentum=0.9, say")


def _check_schedule(config: Config) -> None:
    optimizer, asked = config.optimizer, f"optimizer.schedule={config.optimizer.schedule.name}"
    if optimizer.schedule is ScheduleKind.step:
        _check_falls(config, asked)
    elif optimizer.schedule is not ScheduleKind.constant:
        _check_end(config, asked)


def _check_falls(config: Config, asked: str) -> None:
    if config.optimizer.decay_steps is None:
        raise ConfigError(
            f"{asked} needs to know when: set optimizer.decay_steps={max(1, config.planned_steps // 3)}, say"
        )
    if not config.optimizer.final:
        raise ConfigError(f"{asked} with optimizer.final=0 stops at the first fall: set optimizer.final=0.1, say")


def _check_end(config: Config, asked: str) -> None:
    warmup, decay = config.optimizer.warmup_steps, config.decay_steps or 0
    if config.optimizer.decay_steps is None and config.lane_steps and config.whole_sequences and config.data.grows:
        raise ConfigError(
            f"{asked} does not know how many steps lane_steps={config.lane_steps} will be, for the sequences grow: set "
            "optimizer.decay_steps"
        )
    if warmup >= decay:
        raise ConfigError(
            f"optimizer.warmup_steps={warmup} leaves none of the {decay} steps of {asked}: set "
            f"optimizer.warmup_steps={decay // 10}, say"
        )
