"""`dni-train --explain`: the meaning of each setting, from the comments beside it."""

from __future__ import annotations

import ast
import enum
import inspect
import io
import re
import tokenize
from dataclasses import MISSING, dataclass, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin

from dni.ranges import Range
from workers.config.catalogue import Entry, entries
from workers.config.settings import Config

PLAIN: dict[Any, str] = {
    Any: "MODULE.CLASS | {_target_: MODULE.CLASS, NAME: VALUE, ...}",
    bool: "true | false",
    int: "whole number",
    float: "number",
    str: "text",
}


@dataclass(frozen=True)
class Setting:
    """One setting, or a section of them."""

    name: str  #: dotted
    kind: Any  #: its type; a dataclass if it is a section
    meaning: str
    unit: str | None
    default: Any  #: the default of its class
    allowed: Range | None  #: range of a number
    options: tuple[str, ...]  #: GROUP=OPTION that have this setting; empty: all

    @property
    def is_section(self) -> bool:
        return is_dataclass(self.kind)

    @property
    def is_number(self) -> bool:
        """Whether it holds numbers, which have a unit."""
        inner = _without_null(self.kind)
        return (get_args(inner)[0] if get_origin(inner) is list else inner) in (int, float)

    @property
    def values(self) -> str:
        """The accepted values, as text."""
        inner, null = _without_null(self.kind), ", or null" if NoneType in get_args(self.kind) else ""
        if get_origin(inner) is list:
            (each,) = get_args(inner)
            one = " | ".join(each.__members__) if isinstance(each, enum.EnumMeta) else PLAIN[each]
            return f"list: [{one}, ...]{null}"
        if get_origin(inner) is dict:
            return "{NAME: VALUE, ...}"
        if isinstance(inner, enum.EnumMeta):
            return " | ".join(inner.__members__) + null
        return PLAIN[inner] + (f", {self.allowed.words}" if self.allowed else "") + null


@cache
def settings() -> dict[str, Setting]:
    """Return all settings and sections by name, each section before its content."""
    return {entry.name: _setting(entry) for entry in entries(Config)}


def comments(cls: type) -> dict[str, str]:
    """Return the comment of each field of a dataclass: the one beside it and those on the lines below."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _own_comments(base) if is_dataclass(base) else {}
    return found


def _own_comments(cls: type) -> dict[str, str]:
    source = inspect.getsource(cls)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    # `#:` documents a class variable that follows, not a setting
    settings_only = (t for t in tokens if t.type == tokenize.COMMENT and not t.string.startswith("#:"))
    lines = {t.start[0]: t.string.lstrip("# ") for t in settings_only}
    ends = [_first_line(later) for later in node.body[1:]] + [len(source.splitlines()) + 1]
    return {
        part.target.id: " ".join(lines[n] for n in range(part.lineno, end) if n in lines)
        for part, end in zip(node.body, ends, strict=True)
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _setting(entry: Entry) -> Setting:
    text, field = comments(entry.owner)[entry.field.name], entry.field
    unit = re.match(r"\[(.+?)\] ", text)
    return Setting(
        entry.name,
        entry.kind,
        text[unit.end() :] if unit else text,
        unit.group(1) if unit else None,
        default=field.default if field.default_factory is MISSING else field.default_factory(),
        allowed=field.metadata.get("range"),
        options=entry.options,
    )


def _without_null(kind: Any) -> Any:
    inner = [part for part in get_args(kind) if part is not NoneType]
    return inner[0] if NoneType in get_args(kind) else kind
