"""Check all jobs of a sweep that another launcher runs, before the first one starts."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.cli.ending import explain
from workers.cli.sweep.flags import is_sweep
from workers.config.compose import compose_settings
from workers.config.validation.check import check
from workers.launch.accept import settle


def combinations(arguments: Sequence[str]) -> list[list[str]]:
    """Return the settings of each job of a sweep, in Hydra's order, without flags and Hydra's own settings.

    Raises HydraException for arguments that cannot be parsed.
    """
    choices: list[list[str]] = []
    for override in OverridesParser.create().parse_overrides([word for word in arguments if _own(word)]):
        key, line = override.get_key_element(), str(override.input_line)
        if override.is_sweep_override() and not override.is_discrete_sweep():
            raise HydraException(f"{line}: list the values of a sweep, separated by commas")
        swept = override.is_sweep_override()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [line])
    return [list(job) for job in itertools.product(*choices)]


def check_sweep(arguments: Sequence[str], config_name: str = "config") -> None:
    """Check every job of a sweep as its run would be checked; of submitted jobs only the settings.

    Prints a line on stderr for each refused job, then raises ConfigError.
    """
    if not is_sweep(arguments):
        return
    elsewhere = any(word.startswith("hydra/launcher=submitit") for word in arguments)
    jobs, refused = combinations(arguments), 0
    for number, job in enumerate(jobs):
        try:
            config = compose_settings(job, config_name)
            if elsewhere:
                check(config)
            else:
                settle(config, None, measures=False)
        except (HydraException, OmegaConfBaseException, ConfigError) as error:
            refused += 1
            sys.stderr.write(f"dni-train: job {number} ({shlex.join(job)}): {explain(error)}\n")
    if refused:
        raise ConfigError(f"{refused} of the {len(jobs)} jobs of this sweep cannot run; none was started")


def _own(word: str) -> bool:
    return not word.startswith(("-", "hydra.", "hydra/", "+hydra", "++hydra"))
