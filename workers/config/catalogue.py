"""List every setting, with its type and dataclass field, including those of classes that are not chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, get_type_hints

import yaml

from workers.config.plugins import TARGET, find
from workers.config.settings import Config


@dataclass(frozen=True)
class Entry:
    """A setting, or a section of them."""

    name: str  #: dotted
    kind: Any  #: the setting's type; the dataclass of a section
    field: Field[Any]
    owner: type  #: the class that declares it
    options: tuple[str, ...] = ()  #: GROUP=OPTION of the classes that have it; empty: all have it


def entries(cls: type, start: str = "") -> Iterator[Entry]:
    """Yield the settings of a dataclass and of its sections; each section precedes its settings."""
    kinds = get_type_hints(cls)
    for each in fields(cls):
        name, base = start + each.name, each.metadata.get("plugin")
        yield Entry(name, kinds[each.name] if base is None else base, each, cls)
        yield from _within(name, kinds[each.name], each)


@cache
def plugin_bases() -> Mapping[str, type]:
    """Return the base class of every plug-in section, by the section's name."""
    return {entry.name: entry.kind for entry in entries(Config) if "plugin" in entry.field.metadata}


def option_files() -> list[tuple[str, str, str]]:
    """Return group, option and text of every option file of the package, sorted; a group may be OUTER/INNER."""
    return [found for found in _options(files("workers.conf"), "") if found[0]]


def section_of(group: str) -> str:
    """Return the settings section that the options of a group fill."""
    return group.replace("/", ".")


def _options(folder: Any, group: str) -> Iterator[tuple[str, str, str]]:
    for each in sorted(folder.iterdir(), key=lambda f: f.name):
        if each.is_dir():
            yield from _options(each, f"{group}/{each.name}".lstrip("/"))
        elif each.name.endswith(".yaml"):
            yield group, each.name.removesuffix(".yaml"), each.read_text(encoding="utf-8")


@cache
def shipped(section: str, base: type) -> Mapping[str, type]:
    """Return the package's classes for a section, by GROUP=OPTION."""
    group = section.replace(".", "/")
    nodes = {f"{group}={option}": yaml.safe_load(text) for of, option, text in option_files() if of == group}
    return {option: find(section, base, node[TARGET]) for option, node in nodes.items() if TARGET in node}


def _of_plugins(section: str, base: type, default: type) -> Iterator[Entry]:
    """Yield the settings of all classes of a section: the base class first, then the default class."""
    classes = shipped(section, base)
    seen: set[str] = set()
    for cls in (base, default, *classes.values()):
        kinds = get_type_hints(cls)
        for each in fields(cls):
            if each.name not in seen:
                having = tuple(
                    option for option, one in classes.items() if each.name in {own.name for own in fields(one)}
                )
                name, options = f"{section}.{each.name}", () if len(having) == len(classes) else having
                yield Entry(name, each.metadata.get("plugin", kinds[each.name]), each, cls, options)
                inside = _within(name, kinds[each.name], each)
                yield from (replace(one, options=one.options or options) for one in inside)
                seen.add(each.name)


def _within(name: str, kind: Any, field: Field[Any]) -> Iterator[Entry]:
    """Yield the settings inside a section; nothing for a plain setting."""
    if "plugin" in field.metadata:
        assert callable(field.default_factory)
        yield from _of_plugins(name, field.metadata["plugin"], type(field.default_factory()))
    elif is_dataclass(kind):
        assert isinstance(kind, type)
        yield from entries(kind, f"{name}.")
