"""The record of a run: `config.yaml` in its folder, written once after all checks and read by all stages and commands.

Its first line holds the SHA-256 of the rest. The content of a run folder is untrusted data: the reader accepts no tags,
aliases or interpolations.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from dni.errors import ConfigError
from workers.config.convert import from_any, to_plain
from workers.config.quoting import as_text
from workers.config.settings import Config

CONFIG = "config.yaml"

#: Longest record, in bytes; a usual record has a few kilobytes.
LONGEST = 2**16

#: Deepest nesting of sections and lists.
DEEPEST = 8

_HEAD = b"# Written by dni-train. SHA-256 of all that follows: "


def write_record(run_dir: Path, config: Config) -> None:
    """Write `run_dir/config.yaml` atomically: a reader sees the old record or the new one, never a part."""
    body = yaml.safe_dump(to_plain(config), allow_unicode=True, sort_keys=False).encode()
    temporary = run_dir / f".{CONFIG}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(_HEAD + _digest(body) + b"\n" + body)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run_dir / CONFIG)


def read_record(run_dir: Path) -> Config:
    """Return the settings of a run. Raises ConfigError if there is no record, or if it is damaged or was edited."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_dir}: no {CONFIG} here; give a run folder that dni-train wrote")
    plain = read_plain(path)
    try:
        return from_any(as_text(plain))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_plain(path: Path) -> dict[str, Any]:
    """Read a record as nested dicts. A record of an earlier version, without a digest, is read unchecked.

    Raises ConfigError, naming the file, if it is damaged or was edited.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give a run folder that you may read") from error
    head, _, body = content.partition(b"\n")
    if len(content) > LONGEST:
        raise _damaged(path, f"it is longer than {LONGEST} bytes")
    if head.startswith(_HEAD) and head.removeprefix(_HEAD).strip() != _digest(body):
        raise _damaged(path, "its SHA-256 differs from the one in its first line: it was edited or is incomplete")
    return _parse(path, content)


def to_resume(config: Config) -> Config:
    """Return the settings that a resumed run starts with: its record, without the values that were filled in.

    If the schedule ended at the last step, its end is reset to follow the new number of steps.
    """
    schedule = config.optimizer.schedule
    if schedule.ends and schedule.decay_steps == config.planned_steps:
        schedule = replace(schedule, decay_steps=None)
    optimizer = replace(config.optimizer, schedule=schedule)
    return replace(config, optimizer=optimizer, resume=None, resume_step=None)


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        text = content.decode()
        _refuse_traps(path, text)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise _damaged(path, "it holds no settings")
    return tree


def _refuse_traps(path: Path, text: str) -> None:
    """Raise ConfigError for aliases and deep nesting, which let a small file expand without bound; the text is
    streamed."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise _damaged(path, "it has YAML aliases, which dni-train never writes")
        if depth > DEEPEST:
            raise _damaged(path, f"it is nested more than {DEEPEST} deep")


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _damaged(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: damaged: {' '.join(why.split())}; give another run, or restore this file from a copy")
