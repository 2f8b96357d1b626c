"""The record of a benchmark: its environment, and the bars that it prints at its end."""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def environment() -> dict[str, Any]:
    """Return versions, machine and command, with which a figure can be judged and repeated."""
    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "grpc": version("grpcio"),
        "dni": version("dni"),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def bar(name: str, value: float | None, goal: float | None, holds: bool | None) -> dict[str, Any]:
    """Print one bar as a line of JSON, and return it."""
    line = {"bar": name, "value": None if value is None else round(value, 4), "goal": goal, "holds": holds}
    print(json.dumps(line), flush=True)
    return line


def write(path: Path, results: dict[str, Any]) -> None:
    """Write results as JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _module() -> str:
    """Return the dotted name of the program that runs."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
