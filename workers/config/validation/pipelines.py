"""Rules for the schedules of torch's pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from dni.errors import ConfigError
from workers.config.settings import Config

#: Settings of the section `transport` that pipelines use.
USED = ("timeout_s", "insecure")


def check_pipelines(config: Config) -> None:
    """Refuse settings that torch's pipelines do not support. Raises ConfigError."""
    if config.pipelined:
        name = f"depth={config.depth.name}"
        _check_method(config, name)
        _check_unused(config, name)


def check_devices(config: Config, devices: Sequence[str]) -> None:
    """Refuse devices that one torch backend cannot join. Raises ConfigError."""
    gpus = [device for device in devices if device.startswith("cuda")]
    if config.pipelined and gpus and (len(gpus) < len(devices) or len({*gpus}) < len(gpus)):
        raise ConfigError(
            f"depth={config.depth.name} needs a GPU of its own for every stage, or none at all, not "
            f"devices=[{','.join(devices)}]: set devices=[cpu], say"
        )


def _check_method(config: Config, name: str) -> None:
    if config.time.answers or config.time.recomputes:
        raise ConfigError(
            f"{name} passes no gradient through a carried state, which time={config.time.name} needs: use "
            "time=truncated or time=full"
        )
    if config.threads:
        raise ConfigError(
            f"{name} runs in processes of torch's process group, and transport={config.transport.name} "
            f"launch={config.launch.mode.name} start threads: use transport=grpc launch=processes"
        )


def _check_unused(config: Config, name: str) -> None:
    """Refuse settings of other methods and of the links between stages, which a pipeline ignores."""
    expected: dict[str, tuple[Any, Any]] = {
        "depth.lag": (config.depth.lag, None),
        "optimizer.accumulate": (config.optimizer.accumulate, 1),
        "evaluate.probe": (config.evaluate.probe, None),
    }
    for key, (value, default) in {**expected, **dict(_link_settings(config.transport, "transport."))}.items():
        if value != default:
            raise ConfigError(
                f"{key}={_typed(value)} does nothing for {name}, which runs in torch's pipeline: set "
                f"{key}={_typed(default)}"
            )


def _link_settings(section: Any, start: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield name, value and default of every link setting that pipelines ignore."""
    for each in fields(section):
        value = getattr(section, each.name)
        plain = each.default if each.default_factory is MISSING else each.default_factory()
        if is_dataclass(value):
            yield from _link_settings(value, f"{start}{each.name}.")
        elif each.name not in USED:
            yield f"{start}{each.name}", (value, plain)


def _typed(value: Any) -> Any:
    """Write a value as the command line takes it."""
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value
