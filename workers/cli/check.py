"""`dni-check`: checks of a model, its data and settings, each of which passes or fails with a reason."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dni import __version__
from dni.data.base import Data
from dni.errors import ConfigError, DniError
from workers.build.data import resolve
from workers.checks.gradients import check_gradients
from workers.checks.overfit import check_overfit
from workers.checks.scales import check_scales
from workers.checks.split import check_split
from workers.checks.verdict import Verdict
from workers.cli.arguments import begin_with
from workers.cli.ending import explain
from workers.config.compose import compose_settings
from workers.config.convert import register
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.system.errors import refusals_named

DESCRIPTION = "Check a model, its data and its settings before a long run. Exit code 0: passed, 1: failed, 2: refused."

CHECKS = {
    "overfit": "one batch is learned by heart",
    "gradients": "backward passes are the derivatives of forward passes",
    "split": "the model in stages equals the model in one piece",
    "scales": "neither values nor gradients explode from layer to layer",
}


def settings(words: Sequence[str]) -> Config:
    """Return the settings that these words make, as `dni-train` takes them. Raises ConfigError."""
    for word in words:
        if word.startswith("hydra"):
            raise ConfigError(f"{word}: dni-check writes no run folder, leave it out")
    try:
        config = compose_settings(list(words), begin_with(words)[0])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    check(config)
    return config


def run(name: str, config: Config, steps: int, below: float) -> bool:
    """Run one check, on data opened for it alone; print its line, and return whether it has passed."""
    checks: dict[str, Callable[[Config, Data], Verdict]] = {
        "overfit": partial(check_overfit, steps=steps, below=below),
        "gradients": check_gradients,
        "split": check_split,
        "scales": check_scales,
    }
    verdict = checks[name](*resolve(config))
    print(f"{name}: {'passed' if verdict.passed else 'FAILED'}: {verdict.reason}", flush=True)
    return verdict.passed


class _Parser(argparse.ArgumentParser):
    """Refuses in one line what cannot be parsed, as settings are."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; all options: dni-check --help")


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    listed = "; ".join(f"{name}: {meaning}" for name, meaning in CHECKS.items())
    parser = _Parser("dni-check", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("check", choices=(*CHECKS, "all"), help=listed)
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings, as dni-train takes them")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="most steps of overfit (500)")
    parser.add_argument(
        "--below", type=float, default=0.05, metavar="X", help="share of its first loss that overfit must reach (0.05)"
    )
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-check`. Returns 0, 1 if a check has failed, or 2 after one line on stderr that says what to
    change."""
    register()
    try:
        with refusals_named():
            asked = _parsed(argv)
            if asked.steps < 1 or not 0 < asked.below < 1:
                raise ConfigError("--steps is 1 or more, and --below between 0 and 1")
            config = settings(asked.overrides)
            chosen = [name for name in CHECKS if asked.check in (name, "all")]
            passed = [run(name, config, asked.steps, asked.below) for name in chosen]
    except DniError as error:
        print(f"dni-check: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
