"""`dni-plan`: where to cut a model, by what its layers cost on this machine, and what each method would make of it."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dni import __version__
from dni.errors import ConfigError, DniError
from workers.cli.arguments import begin_with
from workers.cli.ending import explain
from workers.config.compose import compose_settings
from workers.config.convert import register
from workers.config.settings import Config
from workers.config.validation.check import check
from workers.planning.forecast import Circumstances
from workers.planning.plan import Plan, make_plan, with_known_shapes
from workers.planning.table import show
from workers.system.errors import refusals_named

DESCRIPTION = "Measure the layers of a model, and say where to cut it and how fast each method would be."


def plan(words: Sequence[str], asked: argparse.Namespace) -> Plan:
    """The plan for the settings that these words make, as `dni-train` takes them. Raises ConfigError."""
    for word in words:
        if word.startswith("hydra"):
            raise ConfigError(f"{word}: dni-plan writes no run folder, leave it out")
    try:
        config_name, _ = begin_with(words)
        config = compose_settings(list(words), config_name)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error)) from error
    check(config)
    given = circumstances(config, asked)
    config, notes = with_known_shapes(config)
    return make_plan(config, given, notes)


def circumstances(config: Config, asked: argparse.Namespace) -> Circumstances:
    """What was asked for, else what the settings say. Raises ConfigError."""
    delay = _one("--delay-ms", asked.delay_ms, config.transport.delay_ms)
    megabits = _one("--bandwidth-mbit", asked.bandwidth_mbit, math.inf)
    if not megabits:
        raise ConfigError("--bandwidth-mbit 0: give more than 0, or leave it out")
    overhead = _one("--overhead-ms", asked.overhead_ms, 0.0)
    usual = config.microbatches if config.pipelined else config.stages
    return Circumstances(
        delay_s=delay / 1e3,
        bytes_per_s=None if math.isinf(megabits) else megabits * 1e6 / 8,
        overhead_s=overhead / 1e3,
        window=_whole("--window", asked.window, config.depth.max_in_flight),
        microbatches=_whole("--microbatches", asked.microbatches, usual),
    )


def _one(option: str, text: str | None, otherwise: float, least: float = 0.0) -> float:
    try:
        found = otherwise if text is None else float(text)
    except ValueError:
        found = math.nan
    if text is not None and not (math.isfinite(found) and found >= least):
        raise ConfigError(f"{option} {text}: give a number of {least:g} or more")
    return found


def _whole(option: str, text: str | None, otherwise: int) -> int:
    found = _one(option, text, otherwise, least=1)
    if found % 1:
        raise ConfigError(f"{option} {text}: give a whole number")
    return int(found)


def as_json(made: Plan) -> dict[str, Any]:
    """All of a plan: times in seconds, sizes in bytes; what is not known is null."""
    tree = asdict(made)
    for each, cut in zip(tree["partitions"], made.partitions, strict=True):
        each |= {"slowest_s": cut.slowest_s, "balance": cut.balance}
    for each in tree["forecasts"]:
        each["here_per_s"] = each["here_per_s"] if math.isfinite(each["here_per_s"]) else None
    return {**tree, "to_type": made.to_type}


class _Parser(argparse.ArgumentParser):
    """What cannot be parsed is refused in one line, as settings are."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; all options: dni-plan --help")


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser("dni-plan", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="settings, as dni-train takes them")
    parser.add_argument("--delay-ms", metavar="N", help="one-way delay of a link (transport.delay_ms)")
    parser.add_argument("--bandwidth-mbit", metavar="N", help="of each direction of a link; default: no limit")
    parser.add_argument("--overhead-ms", metavar="N", help="time a stage spends on a frame sent or received (0)")
    parser.add_argument("--window", metavar="W", help="frames in flight on an edge (depth.max_in_flight)")
    parser.add_argument("--microbatches", metavar="M", help="of the pipelines (depth.microbatches, else the stages)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    return parser.parse_intermixed_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `dni-plan`. Returns 0, or 2 after one line on stderr that says what to change."""
    register()
    try:
        with refusals_named():
            asked = _parsed(argv)
            made = plan(asked.overrides, asked)
            if asked.json:
                asked.json.write_text(json.dumps(as_json(made), indent=2) + "\n", encoding="utf-8")
    except DniError as error:
        print(f"dni-plan: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    show(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
