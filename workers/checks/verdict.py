"""The result of a check, and what the checks have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dni.data.base import Data
from dni.data.window import Window, split_labels
from dni.errors import ConfigError
from dni.recurrent import Chain
from workers.build.model import build_chains
from workers.config.schema import Precision
from workers.config.settings import Config

#: Most windows that are joined until one has a label that counts.
MOST = 64


@dataclass(frozen=True)
class Verdict:
    """Whether a check has passed, and why, in one sentence."""

    passed: bool
    reason: str


def parts_of(config: Config) -> list[Chain]:
    """Return the parts of the model, with weights from the seed, in 32 bits. Raises ConfigError for tied parts."""
    chains = build_chains(replace(config, precision=Precision.fp32))
    owners = [id(p) for chain in chains for p in {id(p): p for p in chain.parameters()}.values()]
    if config.model.tied.name != "refuse" or len(owners) != len({*owners}):
        raise ConfigError(f"model.tied={config.model.tied.name}: checks do not know tied weights, use stages=1")
    return chains


def first_windows(config: Config, data: Data) -> tuple[Window, Tensor]:
    """Return the first windows up to one with labels that count, as one window from a fresh state, and its labels."""
    windows: list[Window] = []
    while not windows or (len(windows) < MOST and not _counted(config, windows)):
        windows.append(data.train.next())
    first = windows[0]
    labels = [split_labels(each.inputs, each.labels)[0] for each in windows]
    if len(windows) == 1:
        return first, labels[0]
    if not all(isinstance(each.inputs, Tensor) for each in windows):
        raise ConfigError(f"data={config.data.name}: no label of the first window counts")
    joined = first._replace(inputs=torch.cat([each.inputs for each in windows], dim=1), done=windows[-1].done)
    return joined, torch.cat(labels, dim=1)


def _counted(config: Config, windows: list[Window]) -> int:
    return sum(config.loss.count(split_labels(each.inputs, each.labels)[0]) for each in windows)
