"""Compose settings in this process from the overrides and files that `dni-train` uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

from workers.config.convert import from_any, register
from workers.config.own_options import choose_own_classes
from workers.config.settings import Config

_LOCK = threading.Lock()  # Hydra keeps one global state per process


def compose_settings(overrides: Sequence[str], config_name: str = "config") -> Config:
    """Return the settings of `dni-train OVERRIDES`, unchecked, and without the values that depend on the data.

    `config_name` is the primary config (`workers.cli.arguments.begin_with`). A Hydra application may be running in
    this process. Raises HydraException, OmegaConfBaseException or ConfigError.
    """
    register()
    with _LOCK, _own_hydra():
        return from_any(OmegaConf.to_container(compose(config_name, choose_own_classes(overrides))))


@contextmanager
def _own_hydra() -> Iterator[None]:
    """Initialise Hydra for the block, and restore the previous instance afterwards."""
    before, version = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("workers.conf", version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before
        VersionBase.instance().version_base = version
