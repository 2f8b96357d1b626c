"""One safetensors file with the weights of a whole model, under the names that the unsplit model gives them.

What the file says of itself is text by key, beside `format=pt`, by which other readers know whose tensors these are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dni.errors import CheckpointError, ConfigError
from workers.storage.sealed import put_in_place
from workers.system.errors import about

SUFFIX = ".safetensors"

#: Fact: further names of tensors.
_TIED = "tied"


@dataclass(frozen=True)
class WeightsFile:
    """What such a file holds. `facts`: what it says of itself; empty in files of other programs."""

    tensors: dict[str, Tensor]
    facts: dict[str, str]


def is_weights_file(path: Path) -> bool:
    """Whether a path means such a file, and not the folder of a run; it need not be there."""
    return path.is_file() or (path.suffix == SUFFIX and not path.is_dir())


def refuse_target(path: Path) -> None:
    """Raise ConfigError unless a new file can be written under this name."""
    if path.suffix != SUFFIX:
        raise ConfigError(f"{path}: weights are written as safetensors: name the file {path.name}{SUFFIX}")
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} is already there: name another file, or remove it first")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}: make it first, or name another one")


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    """Write a new file in one piece. Raises ConfigError if it is there already, OSError."""
    refuse_target(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    apart = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        with about(path):
            save_file(apart, temporary, metadata={"format": "pt", **facts})
            put_in_place(temporary, path)
    except SafetensorError as error:
        raise ConfigError(f"{path} cannot be written: {error}; name a file elsewhere") from error
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> WeightsFile:
    """The whole content, on the CPU, with parameters of several layers under all of their names.

    Raises CheckpointError for what is not there or is no such file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            # as in a checkpoint, wherever they lie in the file: on some processors sums depend on that
            tensors = {name: file.get_tensor(name).clone() for name in names}
            facts = dict(file.metadata() or {})
            return WeightsFile(tensors | _tied(tensors, facts), facts)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; give one that dni-export wrote, or the folder of a run"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError) as error:
        why = " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is no whole safetensors file ({why}): give one that dni-export wrote, or the folder of a run"
        ) from error


def tied_fact(names: Mapping[str, str]) -> dict[str, str]:
    """What a file says of further names of its tensors, with the name that each has in the file."""
    return {_TIED: json.dumps(dict(names))} if names else {}


def _tied(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> dict[str, Tensor]:
    names = json.loads(facts.get(_TIED, "{}"))
    return {name: tensors[first].clone() for name, first in names.items() if first in tensors}
