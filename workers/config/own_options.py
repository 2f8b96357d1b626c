"""Options of a group that one command alone has: a user's own class, or the section of a run that goes on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from workers.config.convert import plugin_bases
from workers.config.plugins import TARGET, find

#: The option of every group that holds the settings of the run that goes on (`conf/resumed.yaml`).
RECORDED = "recorded"

#: GROUP._target_=MODULE.CLASS or GROUP=MODULE.CLASS; with commas several of them, and options of the package.
_OWN = re.compile(rf"(\w+)(?:\.{TARGET})?=([\w.,]*\w\.\w[\w.,]*)")

_offered: set[tuple[str, str]] = set()


def offer(group: str, name: str, settings: Mapping[str, Any]) -> None:
    """Let GROUP=NAME stand for these settings."""
    ConfigStore.instance().store(group=group, name=name, node=dict(settings))
    _offered.add((group, name))


def withdraw() -> None:
    """Forget all that was offered: the next command of this process has its own."""
    for group, name in _offered:
        ConfigStore.instance().repo[group].pop(f"{name}.yaml", None)
    _offered.clear()


def choose_own_classes(words: Sequence[str]) -> list[str]:
    """The words of a command, with every class of a user as an option of its group that has the class's defaults.

    A section named in this way has the settings of that class and no others. Raises ConfigError as `find`.
    """
    kept = [word for word in words if not _passed(word, words)]
    return [_as_option(match[1], match[2]) if (match := _own(word)) else word for word in kept]


def _own(word: str) -> re.Match[str] | None:
    match = _OWN.fullmatch(word)
    return match if match and match[1] in plugin_bases() else None


def _passed(word: str, words: Sequence[str]) -> bool:
    """Whether an option of the package is named for a group for which a class is named as well."""
    group, sign, _ = word.partition("=")
    return bool(sign) and _own(word) is None and any(match[1] == group for match in map(_own, words) if match)


def _as_option(group: str, targets: str) -> str:
    for target in filter(lambda name: "." in name, targets.split(",")):
        cls: type = find(group, plugin_bases()[group], target)
        defaults = OmegaConf.to_container(OmegaConf.structured(cls), enum_to_str=True)
        assert isinstance(defaults, dict)
        offer(group, target, {TARGET: target} | {str(key): value for key, value in defaults.items()})
    return f"{group}={targets}"
