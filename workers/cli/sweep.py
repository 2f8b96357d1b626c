"""Check all jobs of a sweep before the first one runs; list the remaining ones, with commands, if it is stopped."""

from __future__ import annotations

import itertools
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from dni.errors import ConfigError
from workers.config.compose import compose_settings
from workers.config.quoting import hydra_value
from workers.config.validation.check import check
from workers.launch.accept import settle
from workers.launch.cluster_environment import SUBMITTED
from workers.storage import checkpoint

#: Hydra's flags for several runs.
SWEEPS = ("-m", "--multirun")

log = logging.getLogger(__name__)


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


def check_sweep(arguments: Sequence[str], explain: Callable[[BaseException], str], config_name: str = "config") -> None:
    """Check every job of a sweep as its run would be checked; of submitted jobs only the settings.

    Prints a line on stderr for each refused job, then raises ConfigError.
    """
    if not any(flag in arguments for flag in SWEEPS):
        return
    elsewhere = any(word.startswith("hydra/launcher") for word in arguments)
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


@contextmanager
def log_remaining(run_dir: Path) -> Iterator[None]:
    """If a job of a sweep is stopped or fails, log which jobs remain and the commands that run them."""
    try:
        yield
    except BaseException:
        if HydraConfig.get().mode == RunMode.MULTIRUN and SUBMITTED not in os.environ:
            for line in remaining(run_dir, int(HydraConfig.get().job.num), sys.argv[1:]):
                log.warning(line)
        raise


def remaining(run_dir: Path, number: int, arguments: Sequence[str]) -> list[str]:
    """Return one line on the finished and unfinished jobs of a sweep that ends in job `number`, then the commands."""
    jobs, folder = combinations(arguments), run_dir.parent
    done, left = ", ".join(map(str, range(number))) or "none", range(number + 1, len(jobs))
    saved = bool(checkpoint.complete_steps(run_dir))
    rerun = [f"resume={hydra_value(str(run_dir.absolute()))}"] if saved else jobs[number]
    place = run_dir if saved else f"{run_dir}-again"  # one folder holds one run
    return [
        f"of the {len(jobs)} runs of this sweep, finished: {done}; unfinished: {number}; "
        f"not started: {', '.join(map(str, left)) or 'none'}; run the rest with:",
        _command(rerun, place),
        *(_command(jobs[later], folder / str(later)) for later in left),
    ]


def _command(words: Sequence[str], place: Path | str) -> str:
    return f"dni-train {shlex.join([*words, f'hydra.run.dir={hydra_value(str(place))}'])}"


def _own(word: str) -> bool:
    return not word.startswith(("-", "hydra.", "hydra/", "+hydra", "++hydra"))
