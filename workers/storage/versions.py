"""The versions that a run is computed with: which are too old, and what a run's folder keeps of them."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

#: The file of a run folder that holds them, written when the run begins.
VERSIONS = "versions.json"

#: Packages by what a summary calls them.
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
    """Of Python and of the packages that a run's results or files can depend on; None: not installed."""
    return {"python": platform.python_version()} | {name: _version(p) for name, p in _PACKAGES.items()}


def keep_versions(run_dir: Path) -> None:
    """Write them into a run's folder."""
    (run_dir / VERSIONS).write_text(json.dumps(versions(), indent=2) + "\n", encoding="utf-8")


def changed_versions(run_dir: Path) -> list[str]:
    """Versions that differ from those in a run's folder, as `torch was 2.10.0, now 2.13.0`.

    What the folder does not say is no difference: earlier versions of this project kept fewer of them, in the summary.
    """
    before, now = _kept(run_dir), versions()
    return [f"{name} was {before[name]}, now {now[name]}" for name in now if before.get(name, now[name]) != now[name]]


def unmet_requirements() -> list[str]:
    """What this package needs and what is installed instead, as `torch>=2.10, and torch 2.6.0 is installed`."""
    try:
        needed = [Requirement(line) for line in metadata.requires("dni") or []]
    except metadata.PackageNotFoundError:  # run from its sources
        return []
    asked = [need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})]
    found = {need.name: _version(need.name) for need in asked}
    return [
        f"{need.name}{need.specifier}, and " + (f"{need.name} {has} is installed" if has else "there is none")
        for need, has in ((need, found[need.name]) for need in asked)
        if has is None or Version(has).base_version not in need.specifier  # a build before a release counts as it
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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
