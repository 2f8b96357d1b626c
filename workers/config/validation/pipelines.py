"""The rules of methods that split a batch into microbatches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

from dni.errors import ConfigError
from workers.config.settings import Config

#: Settings of the section `transport` that count for pipelines as well.
HEEDED = ("timeout_s", "insecure")


def check_pipelines(config: Config) -> None:
    """Refuse what torch's pipelines cannot do. Raises ConfigError."""
    if config.pipelined:
        name = f"depth={config.depth.name}"
        _check_method(config, name)
        _check_elsewhere(config, name)


def check_devices(config: Config, devices: Sequence[str]) -> None:
    """Refuse stages that no one backend of torch can join. Raises ConfigError."""
    gpus = [device for device in devices if device.startswith("cuda")]
    if config.pipelined and gpus and (len(gpus) < len(devices) or len({*gpus}) < len(gpus)):
        raise ConfigError(
            f"depth={config.depth.name} needs a GPU of its own for every stage, or none at all, not "
            f"devices=[{','.join(devices)}]: set devices=[cpu], say"
        )


def _check_method(config: Config, name: str) -> None:
    if config.time.answers or config.time.recomputes:
        raise ConfigError(
            f"{name} takes no gradient of a carried state, which time={config.time.name} would give: use "
            "time=truncated or time=full"
        )
    if config.threads:
        raise ConfigError(
            f"{name} joins processes, by torch's process group, and transport={config.transport.name} "
            f"launch={config.launch.mode.name} are threads: use transport=grpc launch=processes"
        )


def _check_elsewhere(config: Config, name: str) -> None:
    """Settings of other methods, and of links that are not used."""
    needed: dict[str, tuple[Any, Any]] = {
        "depth.lag": (config.depth.lag, None),
        "optimizer.accumulate": (config.optimizer.accumulate, 1),
        "evaluate.probe": (config.evaluate.probe, None),
    }
    for key, (asked, plain) in {**needed, **dict(_of_links(config.transport, "transport."))}.items():
        if asked != plain:
            raise ConfigError(
                f"{key}={_said(asked)} does nothing for {name}, which runs in torch's pipeline: set "
                f"{key}={_said(plain)}"
            )


def _of_links(section: Any, start: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Value and default of every setting of the links between stages, but for those that pipelines heed, too."""
    for each in fields(section):
        value = getattr(section, each.name)
        plain = each.default if each.default_factory is MISSING else each.default_factory()
        if is_dataclass(value):
            yield from _of_links(value, f"{start}{each.name}.")
        elif each.name not in HEEDED:
            yield f"{start}{each.name}", (value, plain)


def _said(value: Any) -> Any:
    """A value as it is typed."""
    if isinstance(value, Enum):
        return value.name
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else value
