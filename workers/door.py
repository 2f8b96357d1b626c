"""The commands begin here: versions that are too old are refused in one line, before what needs them is imported."""

from __future__ import annotations

import sys

from workers.versions import unmet_requirements


def train() -> None:
    """`dni-train`."""
    refuse_too_old("dni-train")
    from workers.__main__ import main  # which imports what may be too old

    main()


def report() -> int:
    """`dni-report`."""
    refuse_too_old("dni-report")
    from workers.report import main

    return main()


def evaluate() -> int:
    """`dni-evaluate`."""
    refuse_too_old("dni-evaluate")
    from workers.evaluate import main

    return main()


def simulate() -> int:
    """`dni-simulate`."""
    refuse_too_old("dni-simulate")
    from workers.simulation.cli import main

    return main()


def refuse_too_old(command: str) -> None:
    """Leave with exit code 2 if packages are missing, or not of the versions that `pyproject.toml` asks for."""
    unmet = unmet_requirements()
    if unmet:
        wanted = " ".join(f"'{line.partition(',')[0]}'" for line in unmet)
        sys.stderr.write(f"{command}: dni needs {'; '.join(unmet)}: pip install {wanted}\n")
        sys.exit(2)
