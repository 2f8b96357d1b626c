"""Quote values for Hydra's override grammar and commands for a POSIX shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

#: Text that needs quotes neither in Hydra's grammar nor in a shell.
_PLAIN = re.compile(r"/[A-Za-z0-9_./-]*")


def resume_command(run_dir: Path) -> str:
    """Return the command that resumes a run, quoted for any folder name."""
    return f"dni-train {shell_word(f'resume={hydra_value(str(run_dir.absolute()))}')}"


def how_to_type(override: str) -> str:
    """Return advice on how to write an override that Hydra cannot parse."""
    key, sign, value = (part.strip() for part in override.partition("="))
    if not (key and sign and value):
        return "a setting is written as key=value, without spaces around the sign"
    return f"if the value is text with special characters, quote it: {shell_word(f'{key}={hydra_value(value)}')}"


def shell_word(text: str) -> str:
    """Quote text as one word of a POSIX shell."""
    easy = not re.search(r"[\\`$\"!\n]", text)
    return f'"{text}"' if easy and shlex.quote(text) != text else shlex.quote(text)


def hydra_value(text: str) -> str:
    """Quote text as the value of an override; a path of plain characters stays as it is."""
    if _PLAIN.fullmatch(text):
        return text
    escaped = re.sub(r"(\\*)'", lambda found: found.group(1) * 2 + "\\'", literal(text))
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - trailing :]}'"


def hydra_node(value: Any) -> str:
    """Write nested dicts, lists, strings, numbers and None as the value of an override."""
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{hydra_node(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(hydra_node, value))}]"
    if isinstance(value, str):
        return hydra_value(value)
    return "null" if value is None else str(value).lower()


def literal(text: str) -> str:
    """Escape `${...}`, so that OmegaConf does not interpolate it."""
    return re.sub(r"(\\*)\$\{", lambda found: found.group(1) * 2 + "\\${", text)


def as_text(tree: Any) -> Any:
    """Escape `${...}` in all strings of nested dicts and lists, so that OmegaConf does not interpolate it."""
    if isinstance(tree, dict):
        return {key: as_text(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_text(value) for value in tree]
    return literal(tree) if isinstance(tree, str) else tree
