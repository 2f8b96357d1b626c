"""Answer `dni-train --explain` and `--version`, which need no run."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from typing import Any

from omegaconf import OmegaConf

import dni
from dni.errors import ConfigError
from workers.cli.explain import Setting, settings
from workers.config.catalogue import option_files, section_of
from workers.config.compose import compose_settings
from workers.config.convert import to_plain
from workers.config.suggest import did_you_mean

WIDTH = 100


def print_help(arguments: Sequence[str]) -> bool:
    """Answer `--version` and `--explain [NAME ...]`; return False if neither is given.

    Raises ConfigError for a name that is neither a setting nor a section.
    """
    words = [argument.partition("=")[0] for argument in arguments]
    if "--version" in words:
        sys.stdout.write(f"dni-train {dni.__version__}\n")
        return True
    if "--explain" not in words:
        return False
    place = words.index("--explain")
    given = arguments[place].partition("=")[2]
    names = [*([given] if given else []), *arguments[place + 1 :]]
    sys.stdout.write("\n".join(explanations(names)) + "\n")
    return True


def explanations(names: Sequence[str]) -> list[str]:
    """Return the lines that explain these settings and sections; without names, one line for each.

    Raises ConfigError for an unknown name.
    """
    known = settings()
    for name in names:
        if name not in known:
            raise ConfigError(f"--explain {name}: no such setting{did_you_mean(name, list(known))}; all: --explain")
    return [line for name in names for line in _entry(known[name])] if names else list(_overview())


def _overview() -> Iterator[str]:
    yield "All settings, with units in brackets. For one setting or section in full: dni-train --explain NAME"
    for setting in settings().values():
        yield from ["", _headline(setting)] if setting.is_section else [_headline(setting)]


def _headline(setting: Setting) -> str:
    return textwrap.shorten(f"{setting.name}: {_meaning(setting)}", WIDTH, placeholder=" ...")


def _meaning(setting: Setting) -> str:
    return (f"[{setting.unit}] " if setting.unit else "") + setting.meaning


def _entry(setting: Setting) -> Iterator[str]:
    """Yield a setting's paragraph; for a section, its options and the paragraphs of its content."""
    yield from _paragraph(setting.name, _meaning(setting))
    if not setting.is_section:
        yield from _paragraph("", f"default {written(default(setting))}; values: {setting.values}")
        yield from _paragraph("", f"only with {', '.join(setting.options)}") if setting.options else ()
        by = ", ".join(f"{option} ({written(value)})" for option, value in set_by(setting.name))
        yield from _paragraph("", f"set by {by}") if by else ()
        return
    for option, meaning in options(setting.name).items():
        yield from _paragraph("", f"{option}: {meaning}".removesuffix(": "))
    inside = setting.name + "."
    for name, each in settings().items():
        if name.startswith(inside) and "." not in name.removeprefix(inside):
            yield from ["", *_entry(each)]


def _paragraph(name: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
    return [*([name] if name else []), *(f"    {line}" for line in lines)]


def options(section: str) -> dict[str, str]:
    """Return the options of a section, GROUP=OPTION, with the comment at the top of each file."""
    return {
        f"{group}={option}": " ".join(
            line.lstrip("# ") for line in text.splitlines() if line.startswith("# ") and "@" not in line
        )
        for group, option, text in option_files()
        if section_of(group) == section
    }


def set_by(name: str) -> list[tuple[str, Any]]:
    """Return the options that give a setting another value than the default, with that value."""
    usual, found = default(settings()[name]), []
    for group, option, text in option_files():
        start = "" if group == "experiment" else section_of(group) + "."
        if name.startswith(start):
            own = OmegaConf.to_container(OmegaConf.create(text))
            value = _place(own, name.removeprefix(start), usual)
            found += [(f"{group}={option}", value)] if value != usual else []
    return found


@cache
def _defaults() -> dict[str, Any]:
    """Return the settings of `dni-train` without arguments."""
    return to_plain(compose_settings([]))


def default(setting: Setting) -> Any:
    """Return a setting's value if none is given: of the default options, else of its class."""
    of_class = setting.default.name if isinstance(setting.default, Enum) else setting.default
    return _place(_defaults(), setting.name, of_class)


def _place(tree: Any, name: str, otherwise: Any = None) -> Any:
    for part in name.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return otherwise
        tree = tree[part]
    return tree


def written(value: Any) -> str:
    """Format a value as a user types it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
