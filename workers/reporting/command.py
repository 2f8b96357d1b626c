"""The command that repeats a run, from its recorded settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.config.catalogue import option_files, plugin_bases, shipped
from workers.config.compose import compose_settings
from workers.config.convert import from_any, to_plain
from workers.config.plugins import TARGET, target_of
from workers.config.quoting import as_text, hydra_node, shell_word

#: Settings that a run fills in from its data, those of one start of it, and the name of the experiment.
FILLED = (
    "data.sha256", "model.symbols", "model.input_symbols", "model.input_shape", "run_id", "resume", "resume_step",
    "experiment",  # a name of one's own cannot be typed: it would choose an option
)  # fmt: skip


def command_of(record: Mapping[str, Any]) -> str | None:
    """Return `dni-train ...` with every setting that differs from the defaults; None for a record of earlier versions.

    Settings that a run fills in from its data are left out.
    """
    try:
        wanted = to_plain(from_any(as_text(dict(record))))
        choices = tuple(_choices(wanted))
        words = [*choices, *_differences(wanted, _composed(choices))]
    except (ConfigError, HydraException, OmegaConfBaseException):
        return None
    return " ".join(["dni-train", *map(shell_word, words)])


@cache
def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    return to_plain(compose_settings(choices))


def _choices(wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield the experiment, if it is one of the package, and GROUP=OPTION, or GROUP._target_=CLASS, of every section
    whose class is not its usual one."""
    named = {option for group, option, _ in option_files() if group == "experiment"} & {wanted["experiment"]}
    experiment = tuple(f"experiment={name}" for name in named)
    yield from experiment
    usual = _composed(experiment)
    for section, base in plugin_bases().items():
        target = _at(wanted, section)[TARGET]
        if target == _at(usual, section)[TARGET]:
            continue
        options = [option for option, cls in shipped(section, base).items() if target_of(cls) == target]
        yield options[0] if options else f"{section}.{TARGET}={target}"


def _at(tree: Mapping[str, Any], section: str) -> Any:
    found: Any = tree
    for part in section.split("."):
        found = found[part]
    return found


def _differences(wanted: Mapping[str, Any], usual: Mapping[str, Any], start: str = "") -> Iterator[str]:
    for key, value in wanted.items():
        name, other = f"{start}{key}", usual.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            yield from _differences(value, other, f"{name}.")
        elif value != other and name not in FILLED and key != TARGET:
            yield f"{name}={hydra_node(value)}"
