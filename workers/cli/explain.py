"""`dni-train --explain`: what each setting means, from the comments beside it in `workers.config`."""

from __future__ import annotations

import ast
import enum
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from dni.errors import ConfigError
from workers.config.settings import Config, from_any
from workers.config.validation.ranges import check_numbers

PLAIN = {bool: "true | false", int: "whole number", float: "number", str: "text"}


@dataclass(frozen=True)
class Setting:
    """One setting, or a section of them."""

    name: str  #: dotted
    kind: Any  #: its type; of a section a dataclass
    meaning: str
    unit: str | None

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
        """What may be given."""
        inner, null = _without_null(self.kind), ", or null" if NoneType in get_args(self.kind) else ""
        if get_origin(inner) is list:
            return f"list: [{PLAIN[get_args(inner)[0]]}, ...]{null}"
        if isinstance(inner, enum.EnumMeta):
            return " | ".join(inner.__members__) + null
        return PLAIN[inner] + (f", {bounds(self.name)}" if inner in (int, float) and bounds(self.name) else "") + null


@cache
def settings() -> dict[str, Setting]:
    """All settings and sections by name, each section before what is in it."""
    return {setting.name: setting for setting in _collect(Config, "")}


def bounds(name: str) -> str:
    """The range of a number, in the words with which a value below it is refused; empty if there is none."""
    section, _, key = name.rpartition(".")
    tree: dict[str, Any] = {key: -1}
    for part in reversed(section.split(".") if section else []):
        tree = {part: tree}
    try:
        check_numbers(from_any(tree))
    except ConfigError as error:
        return str(error).partition(" must be ")[2]
    return ""


def comments(cls: type) -> dict[str, str]:
    """The comment of each field of a dataclass: the one beside it, and those in the lines below it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _own_comments(base) if is_dataclass(base) else {}
    return found


def _own_comments(cls: type) -> dict[str, str]:
    source = inspect.getsource(cls)
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {t.start[0]: t.string.lstrip("#: ") for t in tokens if t.type == tokenize.COMMENT}
    ends = [_first_line(later) for later in node.body[1:]] + [len(source.splitlines()) + 1]
    return {
        part.target.id: " ".join(lines[n] for n in range(part.lineno, end) if n in lines)
        for part, end in zip(node.body, ends, strict=True)
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name)
    }


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _collect(cls: type, start: str) -> Iterator[Setting]:
    said, kinds = comments(cls), get_type_hints(cls)
    for each in fields(cls):
        text, kind = said[each.name], kinds[each.name]
        unit = re.match(r"\[(.+?)\] ", text)
        yield Setting(start + each.name, kind, text[unit.end() :] if unit else text, unit.group(1) if unit else None)
        if is_dataclass(kind):
            yield from _collect(kind, f"{start}{each.name}.")  # type: ignore[arg-type]


def _without_null(kind: Any) -> Any:
    inner = [part for part in get_args(kind) if part is not NoneType]
    return inner[0] if NoneType in get_args(kind) else kind
