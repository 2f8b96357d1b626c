"""Options of a group that one command alone has: a user's own class, or the section of a run that goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from workers.config.catalogue import option_files
from workers.config.convert import plugin_bases
from workers.config.plugins import TARGET, find
from workers.config.quoting import hydra_node

#: The option of every group that holds the settings of the run that goes on (`conf/resumed.yaml`).
RECORDED = "recorded"

_CLASS = re.compile(r"\w+(\.\w+)+")

_offered: set[tuple[str, str]] = set()


def offer(group: str, name: str, settings: Mapping[str, Any]) -> None:
    """Let GROUP=NAME stand for these settings."""
    ConfigStore.instance().store(group=group, name=name, node=dict(settings))
    _offered.add((group, name))


def withdraw() -> None:
    """Forget all that was offered: the next command of this process has its own."""
    for group, name in _offered:
        folder = ConfigStore.instance().repo
        for part in group.split("/"):
            folder = folder[part]
        folder.pop(f"{name}.yaml", None)
    _offered.clear()


def choose_own_classes(words: Sequence[str]) -> list[str]:
    """The words of a command, with every class of a user as an option of its group that has the class's defaults.

    A class is named as GROUP=MODULE.CLASS or GROUP._target_=MODULE.CLASS, in a sweep with commas between several of
    them, and options of the package; for a section without a group of its own as SECTION._target_=MODULE.CLASS. The
    section then has the settings of that class and no others. Raises ConfigError as `find`.
    """
    chosen = {word: choice for word in words if (choice := _choice(word)) is not None}
    groups = {group for group, _ in chosen.values()}
    kept = [word for word in words if word in chosen or word.partition("=")[0] not in groups]
    return _inserted([_as_option(*chosen[word]) if word in chosen else word for word in kept])


def _choice(word: str) -> tuple[str, str] | None:
    """The group and what is named for it, if a class is among that."""
    key, _, targets = word.partition("=")
    section = key.removesuffix(f".{TARGET}").replace("/", ".")
    group = section.replace(".", "/")
    own = any(_CLASS.fullmatch(target) for target in targets.split(","))
    return (group, targets) if own and section in plugin_bases() and group in _groups() else None


def _groups() -> set[str]:
    return {group for group, _, _ in option_files()}


def _as_option(group: str, targets: str) -> str:
    for target in filter(_CLASS.fullmatch, targets.split(",")):
        offer(group, target, _defaults(group.replace("/", "."), target))
    return f"{group}={targets}"


def _defaults(section: str, target: str) -> dict[str, Any]:
    cls: type = find(section, plugin_bases()[section], target)
    defaults = OmegaConf.to_container(OmegaConf.structured(cls), enum_to_str=True)
    assert isinstance(defaults, dict)
    return {TARGET: target} | {str(key): value for key, value in defaults.items()}


def _inserted(words: list[str]) -> list[str]:
    """The words, with a class that is named for a section within a group in the place of all of that section.

    It comes before the first word about the section, whose settings may be given in any order.
    """
    for word in words:
        key, _, target = word.partition("=")
        section = key.removesuffix(f".{TARGET}")
        if key != section and _CLASS.fullmatch(target) and section in plugin_bases():
            first = next(n for n, each in enumerate(words) if each.startswith(f"{section}."))
            own = [f"{section}=null", f"{section}={hydra_node(_defaults(section, target))}"]
            return _inserted([*words[:first], *own, *(each for each in words[first:] if each != word)])
    return words
