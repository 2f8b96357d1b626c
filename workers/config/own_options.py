"""Hydra options that exist for one command: a user's own class, or a section of a resumed run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from workers.config.catalogue import option_files, plugin_bases, section_of
from workers.config.group_choice import refuse_nameless_choices
from workers.config.plugins import TARGET, find

#: The option of every group that holds the settings of the resumed run (`conf/resumed.yaml`).
RECORDED = "recorded"

#: GROUP._target_=MODULE.CLASS or GROUP=MODULE.CLASS; a sweep lists classes and package options with commas.
_OWN = re.compile(rf"([\w./]+?)(?:\.{TARGET})?=([\w.,]*\w\.\w[\w.,]*)")

#: A group, comma-separated targets, and settings that stand beside a target.
_Chosen = tuple[str, str, Mapping[Any, Any]]

_offered: set[tuple[str, str]] = set()


def offer(group: str, name: str, settings: Mapping[str, Any]) -> None:
    """Register GROUP=NAME as an option with these settings."""
    ConfigStore.instance().store(group=group, name=name, node=dict(settings))
    _offered.add((group, name))


def withdraw() -> None:
    """Remove all registered options, so that the next command in this process starts without them."""
    for group, name in _offered:
        options = ConfigStore.instance().repo
        for part in group.split("/"):
            options = options[part]
        options.pop(f"{name}.yaml", None)
    _offered.clear()


def choose_own_classes(words: Sequence[str]) -> list[str]:
    """Register each class that a command names as an option of its group; return the words that choose these options.

    The section then has the defaults and the settings of that class, and no others. Raises ConfigError for a class
    that `find` refuses, and for a choice without a name.
    """
    refuse_nameless_choices(words)
    own = {word: chosen for word in words if (chosen := _own(word) or _own_with_settings(word)) is not None}
    taken = {group for group, *_ in own.values()}  # replaces a package option of the same group
    kept = [word for word in words if word in own or word.partition("=")[0] not in taken]
    return [_as_option(*own[word]) if word in own else word for word in kept]


def _own(word: str) -> _Chosen | None:
    """Return the choice of a word that names a class or, in a sweep, several; None for any other word."""
    match = _OWN.fullmatch(word)
    group = match[1].replace(".", "/") if match else ""
    return (group, match[2], {}) if match and group in _groups() else None


def _own_with_settings(word: str) -> _Chosen | None:
    """Return the choice of a word GROUP={_target_: MODULE.CLASS, NAME: VALUE, ...}; None for any other word."""
    group = word.partition("=")[0].replace(".", "/")
    if group not in _groups() or f"{{{TARGET}" not in word.replace(" ", ""):
        return None
    try:
        value = OverridesParser.create().parse_override(word).value()
    except HydraException:  # Hydra refuses the word with a message of its own
        return None
    settings = OmegaConf.to_container(OmegaConf.create(value)) if isinstance(value, dict) else {}
    if not isinstance(settings, dict):
        return None
    target = settings.pop(TARGET, None)
    return (group, target, settings) if isinstance(target, str) else None


@cache
def _groups() -> frozenset[str]:
    """Return the groups whose options name a class."""
    return frozenset(group for group, _, _ in option_files() if section_of(group) in plugin_bases())


def _as_option(group: str, targets: str, settings: Mapping[Any, Any]) -> str:
    section = section_of(group)
    for target in filter(lambda name: "." in name, targets.split(",")):
        cls: Any = find(section, plugin_bases()[section], target)
        inner = {each.name for each in fields(cls) if "plugin" in each.metadata}  # these have their own groups
        defaults = OmegaConf.to_container(OmegaConf.structured(cls), enum_to_str=True)
        assert isinstance(defaults, dict)
        own = {str(key): value for key, value in defaults.items() if key not in inner}
        offer(group, target, {TARGET: target} | own | dict(settings))
    return f"{group}={targets}"
