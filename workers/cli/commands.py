"""Entry points of the commands. Ctrl-C and SIGTERM end them with one line, also while they still import.

Only modules that take no time are imported here; each command imports its own slow modules.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from workers.system.imports import import_for_good


def train() -> NoReturn:
    """`dni-train`. The server of a sweep's runs imports while this process does."""
    _run("dni-train", "workers.cli.train", _start_early)


def report() -> NoReturn:
    """`dni-report`."""
    _run("dni-report", "workers.reporting.report")


def status() -> NoReturn:
    """`dni-status`."""
    _run("dni-status", "workers.status.command")


def evaluate() -> NoReturn:
    """`dni-evaluate`."""
    _run("dni-evaluate", "workers.cli.evaluate")


def export() -> NoReturn:
    """`dni-export`."""
    _run("dni-export", "workers.cli.export")


def sample() -> NoReturn:
    """`dni-sample`."""
    _run("dni-sample", "workers.cli.sample")


def plan() -> NoReturn:
    """`dni-plan`."""
    _run("dni-plan", "workers.cli.plan")


def check() -> NoReturn:
    """`dni-check`."""
    _run("dni-check", "workers.cli.check")


def grow() -> NoReturn:
    """`dni-grow`."""
    _run("dni-grow", "workers.growth.command")


def simulate() -> NoReturn:
    """`dni-simulate`."""
    _run("dni-simulate", "workers.simulation.cli")


def new() -> NoReturn:
    """`dni-new`."""
    _run("dni-new", "workers.study.new")


def _start_early() -> None:
    from workers.cli.sweep.server import start_early

    start_early(sys.argv[1:])


def _run(name: str, module: str, first: Callable[[], None] = lambda: None) -> NoReturn:
    """Call `first`, import a module and exit with the code of its `main()`; 130 after Ctrl-C and SIGTERM."""
    try:
        main = _imported(name, module, first)
        code = main()
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: stopped\n")
        code = 130
    sys.exit(code)


def _imported(name: str, module: str, first: Callable[[], None]) -> Callable[[], int | None]:
    def leave(signum: int, frame: object) -> None:
        os.write(2, f"{name}: stopped before the run began; nothing was written\n".encode())
        os._exit(130)  # an exception would surface inside some library's import

    ends = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handled = [number for number, usual in ends.items() if signal.getsignal(number) is usual]  # nohup ignores SIGINT
    for number in handled:
        signal.signal(number, leave)
    refuse_too_old(name)
    first()
    main: Callable[[], int | None] = import_for_good(module).main
    for number in handled:
        signal.signal(number, signal.default_int_handler)
    return main


def refuse_too_old(name: str) -> None:
    """Exit with code 2 if packages are missing or older than `pyproject.toml` requires."""
    from workers.storage.versions import unmet_requirements

    unmet = unmet_requirements()
    if unmet:
        wanted = " ".join(f"'{line.partition(',')[0]}'" for line in unmet)
        sys.stderr.write(f"{name}: dni needs {'; '.join(unmet)}: pip install {wanted}\n")
        sys.exit(2)
