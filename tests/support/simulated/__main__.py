"""Simulate a link and three stages, seed after seed, until one fails or the time is up: `make chaos-sim`."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import count, islice

from tests.support.simulated.chain import check_chain
from tests.support.simulated.chain_plan import draw_chain
from tests.support.simulated.link import check
from tests.support.simulated.plan import draw

_PROGRESS_S = 10.0  # seconds between two lines


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code: 1 if a seed fails."""
    parser = argparse.ArgumentParser(prog="make chaos-sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeat this seed alone")
    parser.add_argument("--first", type=int, default=int(time.time()), help="first seed; default: the time")
    parser.add_argument("--seeds", type=int, help="number of seeds; default: no limit")
    parser.add_argument("--minutes", type=float, default=5.0, help="longest time; default: 5")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _repeat(options.seed)
    return _run(options.first, options.seeds, time.monotonic() + 60 * options.minutes)


def _repeat(seed: int) -> int:
    print(draw(seed), draw_chain(seed), sep="\n")
    failure = _failure(seed)
    print(failure or f"SEED={seed}: passes")
    return int(failure is not None)


def _run(first: int, seeds: int | None, until: float) -> int:
    start = told = time.monotonic()
    done = 0
    for done, seed in enumerate(islice(count(first), seeds), 1):
        failure = _failure(seed)
        now = time.monotonic()
        if failure is not None:
            print(failure)
            return 1
        if now - told >= _PROGRESS_S:
            print(f"{done} seeds from {first} on pass, {done / (now - start):.0f} a second", flush=True)
            told = now
        if now >= until:
            break
    print(f"{done} seeds from {first} on pass, in {time.monotonic() - start:.0f} s")
    return 0


def _failure(seed: int) -> str | None:
    try:
        check(draw(seed))
        check_chain(draw_chain(seed))
    except AssertionError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
