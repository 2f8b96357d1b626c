"""What a user can type: values as Hydra reads them, and commands as a shell reads them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

#: What Hydra's grammar and a shell both take as it stands.
_PLAIN = re.compile(r"/[A-Za-z0-9_./-]*")


def resume_command(run_dir: Path) -> str:
    """The command that goes on with a run, for any name of its folder."""
    return f"dni-train {shell_word(f'resume={hydra_value(str(run_dir.absolute()))}')}"


def how_to_type(override: str) -> str:
    """What to type instead of an override that Hydra's grammar does not take."""
    key, sign, value = (part.strip() for part in override.partition("="))
    if not (key and sign and value):
        return "a setting is written as key=value, without spaces around the sign"
    return f"if this is a text with signs in it, quote it: {shell_word(f'{key}={hydra_value(value)}')}"


def shell_word(text: str) -> str:
    """The text as one word of a POSIX shell."""
    easy = not re.search(r"[\\`$\"!\n]", text)
    return f'"{text}"' if easy and shlex.quote(text) != text else shlex.quote(text)


def hydra_value(text: str) -> str:
    """The text as the value of an override, quoted unless it is a path of plain characters."""
    if _PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r"(\\*)'", lambda found: found.group(1) * 2 + "\\'", literal(text))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"


def hydra_node(value: Any) -> str:
    """Nested dicts, lists, texts, numbers and null as the value of an override."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra_node(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(hydra_node, value))}]"
    if isinstance(value, str):
        return hydra_value(value)
    return "null" if value is None else str(value).lower()


def literal(text: str) -> str:
    """The text for OmegaConf, in which `${...}` then stands for nothing but itself."""
    return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + "\\${", text)


def as_text(tree: Any) -> Any:
    """The same tree for OmegaConf, in which `${...}` is text and stands for nothing."""
    if isinstance(tree, dict):
        return {key: as_text(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_text(value) for value in tree]
    return literal(tree) if isinstance(tree, str) else tree
