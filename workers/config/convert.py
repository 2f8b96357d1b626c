"""Convert settings from and to plain data: nested dicts, lists, strings and numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.config.catalogue import entries
from workers.config.plugins import TARGET, load, load_all, target_of
from workers.config.settings import Config
from workers.config.suggest import suggestion


def register() -> None:
    """Register the schema with Hydra under the name that `conf/config.yaml` uses."""
    ConfigStore.instance().store(name="schema", node=open_schema())


def open_schema() -> DictConfig:
    """Return the typed schema of all settings; plug-in sections are empty and accept any setting."""
    schema: DictConfig = OmegaConf.structured(Config)
    for section, _ in _plugins(Config()):
        OmegaConf.update(schema, section, {}, merge=False)
    return schema


@cache
def _schema() -> DictConfig:
    """Return `open_schema()`, which takes long to make. A merge copies it; nothing else may change it."""
    return open_schema()


def from_any(settings: Any) -> Config:
    """Build a Config from an OmegaConf node, a mapping or a YAML path. Raises ConfigError on unknown keys or types."""
    try:
        loaded = OmegaConf.load(settings) if isinstance(settings, str | Path) else OmegaConf.create(settings)
        config = OmegaConf.to_object(OmegaConf.merge(_schema(), loaded))
    except OmegaConfBaseException as error:
        hint = suggestion(one_line(error), options_by_setting())
        raise ConfigError(f"{one_line(error)}{hint} (all settings: dni-train --cfg job)") from error
    assert isinstance(config, Config)
    for section, default in _plugins(Config()):
        holder, name = _holder(config, section)
        node = {TARGET: target_of(type(default)), **(getattr(holder, name) or {})}
        setattr(holder, name, load(section, _base(holder, name), node))
    for each in fields(config):
        if "plugins" in each.metadata:
            setattr(config, each.name, load_all(each.name, each.metadata["plugins"], getattr(config, each.name)))
    return config


def to_plain(config: Config) -> dict[str, Any]:
    """Return nested dicts, lists, strings and numbers; the inverse of `from_any`."""
    plain: dict[str, Any] = _plain(config)
    return plain


def _plain(value: Any, plugin: bool = False) -> Any:
    if is_dataclass(value):
        named = {TARGET: target_of(type(value))} if plugin else {}
        marked = {f.name: not f.metadata.keys().isdisjoint(("plugin", "plugins")) for f in fields(value)}
        return named | {name: _plain(getattr(value, name), is_plugin) for name, is_plugin in marked.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, plugin) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value.name if isinstance(value, Enum) else value


def _plugins(section: Any, start: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and object of every plug-in section."""
    for each in fields(section):
        value = getattr(section, each.name)
        if "plugin" in each.metadata:
            yield start + each.name, value
        elif is_dataclass(value):
            yield from _plugins(value, f"{start}{each.name}.")


def _holder(config: Config, section: str) -> tuple[Any, str]:
    *above, name = section.split(".")
    holder: Any = config
    for part in above:
        holder = getattr(holder, part)
    return holder, name


def _base(holder: Any, name: str) -> type:
    base: type = holder.__dataclass_fields__[name].metadata["plugin"]
    return base


def setting_names() -> list[str]:
    """Return the dotted names of all settings and sections; each section precedes its settings."""
    return [*options_by_setting()]


def options_by_setting() -> dict[str, tuple[str, ...]]:
    """Return, for every setting and section, the options of its group that have it; empty if all have it."""
    return {entry.name: entry.options for entry in entries(Config)}


def one_line(error: BaseException) -> str:
    """Return the first line of an OmegaConf message, prefixed with the key that the error names."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    first = lines[0] if lines else type(error).__name__
    return f"{keys[0]}: {first}" if keys and keys[0] not in first else first


def fingerprint(config: Config) -> str:
    """Return a hash of the settings on which all stages must agree: seed, model, data, methods, optimizer ..."""
    parts = ("seed", "stages", "model", "data", "loss", "depth", "time", "predictor", "optimizer", "precision")
    agreed = {key: value for key, value in to_plain(config).items() if key in parts}
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()[:16]
