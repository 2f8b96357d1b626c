"""Build a stage from the settings. Every worker builds its own: no code is sent over the network."""

from __future__ import annotations

import logging
from typing import Any

from dni.lr_schedule import start_schedule
from dni.stages.base import Stage
from dni.stages.tied import replicas_of, tied
from dni.types import StagePlace
from workers.build.device import device_of
from workers.build.model import build_chains
from workers.build.optimizer import build_optimizer
from workers.config.settings import Config

log = logging.getLogger(__name__)


def build_stage(config: Config, index: int) -> Stage:
    """Build part `index` of the model as a stage: module, optimizer, schedule, device and random state."""
    chains = build_chains(config)
    chain, replicas = chains[index], replicas_of(tied(chains), index)
    device = device_of(config, index % config.stages)
    chain.to(device)
    if config.compile:
        chain.compile()
    settings: dict[str, Any] = {
        "clip": config.optimizer.clip,
        "accumulate": config.optimizer.accumulate,
        "device": device,
        "seed": config.seed * 1000 + index,
        "first": index == 0,
        "chunk": config.chunk,
        "replicas": replicas,
    }
    place = StagePlace(index, config.parts)
    optimizer = build_optimizer(config, chain, replicas, place)
    settings["schedule"] = start_schedule(config.optimizer.schedule, optimizer, config.decay_steps)
    return config.time.stage(config.depth, chain, optimizer, last=place.last, **settings)
