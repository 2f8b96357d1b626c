"""Versions of Python and packages: refuse those that are too old, and keep them in a run's folder."""

from __future__ import annotations

import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

#: The file in a run folder with the versions at the start of the run.
VERSIONS = "versions.json"

#: Packages by their name in a summary.
_PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "grpc": "grpcio",
    "protobuf": "protobuf",
    "hydra": "hydra-core",
    "omegaconf": "omegaconf",
    "safetensors": "safetensors",
    "dni": "dni",
}


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that results or files depend on; None: not installed."""
    return {"python": platform.python_version()} | {name: _version(p) for name, p in _PACKAGES.items()}


def keep_versions(run_dir: Path) -> None:
    """Write the versions into a run's folder."""
    (run_dir / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")


def changed_versions(run_dir: Path) -> list[str]:
    """Return the versions that differ from those in a run's folder, as `torch was 2.10.0, now 2.13.0`.

    A version that the folder lacks is no difference: earlier releases kept fewer of them, in the summary.
    """
    before, now = _kept(run_dir), versions()
    return [f"{name} was {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def unmet_requirements() -> list[str]:
    """Return the requirements that are not met, as `torch>=2.10, and torch 2.6.0 is installed`."""
    try:
        needed = [Requirement(line) for line in metadata.requires("dni") or []]
    except metadata.PackageNotFoundError:  # not installed: run from the sources
        return []
    required = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: _version(need.name) for need in required}
    return [
        f"{need.name}{need.specifier}, and " + (f"{need.name} {has} is installed" if has else "it is not installed")
        for need, has in ((need, found[need.name]) for need in required)
        if has is None or Version(has).base_version not in need.specifier  # a pre-release counts as its release
    ]


def _kept(run_dir: Path) -> dict[str, str]:
    for file, within in ((VERSIONS, None), ("summary.json", "versions")):
        try:
            held = json.loads((run_dir / file).read_bytes())
        except (OSError, ValueError):
            continue
        held = held.get(within) if within and isinstance(held, dict) else held
        if isinstance(held, dict):
            return {name: value for name, value in held.items() if isinstance(value, str)}
    return {}


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
