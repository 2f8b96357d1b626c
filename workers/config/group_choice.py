"""Refuse a choice of a group that is no name of an option, such as `depth=null`: Hydra would end in a traceback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from dni.errors import ConfigError
from workers.config.catalogue import option_files


def refuse_nameless_choices(words: Sequence[str]) -> None:
    """Raise ConfigError for the first word GROUP=VALUE whose value is null, a number or a boolean.

    Skips words that Hydra cannot parse: it refuses them with a message of its own.
    """
    groups = {group for group, _, _ in option_files()}
    for word in words:
        group = word.partition("=")[0].lstrip("+~").strip()
        if group not in groups:
            continue
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException:
            continue
        if not all(isinstance(value, str | list | dict) for value in _values(override)):
            options = [option for of, option, _ in option_files() if of == group]
            raise ConfigError(f"{word} names no option: write {group}=NAME, where NAME is {' or '.join(options)}")


def _values(override: Override) -> Iterator[object]:
    """The value of an override, or every value of a sweep; nothing for `~GROUP`, which has none."""
    if override.is_sweep_override():
        yield from override.sweep_iterator() if override.is_discrete_sweep() else ()
    elif not override.is_delete() or override.value() is not None:
        yield override.value()
