"""Refuse heads that cannot be built, before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dni.errors import ConfigError
from dni.methods.cut import CutContext
from dni.predictors.head_critic import HeadCritic
from dni.predictors.head_settings import HeadSettings
from dni.predictors.window_block import has_second_derivative
from workers.build.heads.reconstruction import reconstruction
from workers.build.model import build_chains
from workers.build.shapes import example_at
from workers.config.settings import Config


def refuse_heads(config: Config, contexts: Callable[[int], Iterable[CutContext]]) -> None:
    """Raise ConfigError if a head cannot be built, or is to learn from gradients and has no second derivative.

    `contexts` returns those of the cut after a stage, on the CPU.
    """
    if not isinstance(config.predictor.depth, HeadSettings) or not config.depth.predicts:
        return
    with torch.random.fork_rng(devices=[]):
        chains = build_chains(config)
        for cut in (context for index in range(config.stages - 1) for context in contexts(index)):
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
