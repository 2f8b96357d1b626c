"""Fuzz what received bytes go through, guided by coverage if atheris is installed: `make fuzz`."""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import importlib.util
import logging
import resource
import sys
import tempfile
import time
from pathlib import Path

_MEMORY_BYTES = 1 << 31  # that the inputs may add
_HANG_S = 10  # longest time for one input


def main(arguments: list[str]) -> int:
    """Run the command; return its exit code: 1 if an input fails."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time")
    parser.add_argument("--minutes", type=float, default=10.0, help="longest time; default: 10")
    parser.add_argument("--inputs", type=int, help="number of inputs; default: no limit")
    options = parser.parse_args(arguments)
    seconds = 60 * options.minutes
    logging.disable(logging.WARNING)  # a dropped target is logged
    if importlib.util.find_spec("atheris") is not None:
        return _guided(options.seed, seconds, options.inputs)
    print(f"atheris is not installed: random changes of valid frames, seed {options.seed}")
    return _random(options.seed, seconds, options.inputs)


def _guided(seed: int, seconds: float, inputs: int | None) -> int:
    import atheris

    with atheris.instrument_imports(include=["workers.comm", "tests.support.fuzzing"]):
        target = importlib.import_module("tests.support.fuzzing.target")

    def run(data: bytes) -> None:
        target.consume(data)
        target.consume(target.sealed(data))

    with tempfile.TemporaryDirectory() as corpus:
        for number, frame in enumerate(target.recorded()):
            Path(corpus, str(number)).write_bytes(frame)
        limits = [f"-max_total_time={round(seconds)}", f"-timeout={_HANG_S}", f"-rss_limit_mb={_MEMORY_BYTES >> 20}"]
        limits += [f"-seed={seed % 2**32}", f"-max_len={target.LIMIT}", f"-runs={-1 if inputs is None else inputs}"]
        atheris.Setup([sys.argv[0], *limits, corpus], run)
        atheris.Fuzz()  # exits the process
    return 0


def _random(seed: int, seconds: float, inputs: int | None) -> int:
    from tests.support.fuzzing.mutations import fuzz

    _limit_memory()
    faulthandler.dump_traceback_later(seconds + _HANG_S, exit=True)
    try:
        count = fuzz(seed, seconds, inputs)
    except AssertionError as error:
        print(error)
        return 1
    faulthandler.cancel_dump_traceback_later()
    print(f"{count} inputs of seed {seed} pass")
    return 0


def _limit_memory() -> None:
    """Let an allocation fail that is far larger than an input can need."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, resource.RLIM_INFINITY))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
