"""Check numbers against the ranges that are declared beside their defaults (`dni.ranges`)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from dni.errors import ConfigError
from dni.ranges import Range
from workers.config.settings import Config

#: More than the cores of any machine; OpenMP aborts the process if it cannot start that many.
MOST_THREADS = 4096


def check_numbers(config: Config) -> None:
    """Refuse a number out of its range. Raises ConfigError."""
    for key, value, allowed in _numbers(config, ""):
        if not allowed.holds(value):
            raise ConfigError(f"{key}={value} must be {allowed.words}")
        if allowed.largest is not None and value >= allowed.largest:
            raise ConfigError(f"{key}={value} must be below {allowed.largest}")
    if (config.launch.torch_threads or 0) > MOST_THREADS:
        raise ConfigError(f"launch.torch_threads={config.launch.torch_threads} must be at most {MOST_THREADS}")
    if config.transport.timeout_s * 1000 <= 4 * config.transport.delay_ms:
        enough = math.ceil(config.transport.delay_ms / 100)
        raise ConfigError(
            f"transport.timeout_s={config.transport.timeout_s:g} is too short for the round trip of "
            f"transport.delay_ms={config.transport.delay_ms:g}: set transport.timeout_s={enough} or more"
        )


def _numbers(section: Any, start: str) -> Iterator[tuple[str, float, Range]]:
    """Yield name, value and range of every number with a range, except None."""
    for each in fields(section):
        name, value = start + each.name, getattr(section, each.name)
        if is_dataclass(value):
            yield from _numbers(value, f"{name}.")
        elif "range" in each.metadata and value is not None:
            yield name, value, each.metadata["range"]
