"""optimizer.clip_norm=global: the norm over all stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dni.losses import summed_cross_entropy
from dni.recurrent import reset_streams
from dni.stages.base import Stage
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.build.model import build_chains
from workers.comm.edge import Target
from workers.comm.frame import Frame, Kind
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.runtime.piggyback.global_norm import GlobalNorm, NewestNorms

CLIP = 0.05


def run(stages: int = 3, method: str = "backprop", **changes: Any) -> Config:
    optimizer = {"clip": CLIP, "clip_norm": "global", **changes.pop("optimizer", {})}
    depth = {"method": method, **changes.pop("depth", {})}
    return tiny(stages=stages, depth=depth, optimizer=optimizer, **changes)


def unsplit(config: Config) -> dict[str, torch.Tensor]:
    """Train the whole model, with torch's own clipping of all parameters at once."""
    config, opened = resolve(config)
    (whole,) = build_chains(tiny(model={"units": 8, "layers": 3}, stages=1, data={}) if False else _whole(config))
    optimizer, state = config.optimizer.build(whole.parameters()), whole.initial_state(config.data.batch)
    for step in range(1, config.steps + 1):
        window = opened.train.next()
        scores, after = whole(window.inputs, reset_streams(state, window.reset))
        state = tuple(each.detach() for each in after)
        summed_cross_entropy(scores, window.labels).backward()
        if step % config.optimizer.accumulate:
            continue
        for parameter in whole.parameters():
            assert parameter.grad is not None
            parameter.grad.div_(config.optimizer.accumulate * window.labels.numel())
        nn.utils.clip_grad_norm_(whole.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
    return dict(whole.state_dict())
