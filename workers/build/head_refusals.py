"""Refuse heads that cannot be built, before anything starts."""

from __future__ import annotations

import torch

from dni.errors import ConfigError
from dni.predictors.head_critic import HeadCritic
from dni.predictors.head_settings import HeadSettings
from dni.predictors.window_block import has_second_derivative
from workers.build.heads.reconstruction import reconstruction
from workers.build.interfaces import depth_contexts
from workers.build.model import build_chains
from workers.build.shapes import example_at
from workers.config.settings import Config


def refuse_heads(config: Config) -> None:
    """Raise ConfigError if a head cannot be built, or is to learn from gradients and has no second derivative."""
    if not isinstance(config.predictor.depth, HeadSettings) or not config.depth.predicts:
        return
    cpu = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        cuts = [
            context for index in range(config.stages - 1) for context in depth_contexts(config, index, cpu).values()
        ]
        for cut in cuts:
            if config.predictor.depth.reconstruction:
                reconstruction(config, cut)
            for critic in config.depth.learners(cut).values():
                if not (isinstance(critic, HeadCritic) and critic.gradient_weight):
                    continue
                if not has_second_derivative(critic.head, example_at(config, chains, cut.shape)):
                    raise ConfigError(
                        f"predictor.depth.gradient_weight={critic.gradient_weight} needs second derivatives, which the "
                        f"head of stage {cut.index} lacks: set predictor.depth.gradient_weight=0, or use "
                        "predictor=norm_head"
                    )
