"""The typed schema of the groups of settings: names, defaults, and what each is for.

The comment beside a setting is its explanation, and goes on in the comment lines below it: `dni-train --explain` prints
it (`workers.cli.explain`). It begins with the unit in brackets where the setting is a number.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dni.predictors import in_depth, in_time
from dni.predictors.settings import DepthPredictor, TimePredictor
from dni.ranges import one_or_more, zero_or_more
from workers.config.plugins import plugin

# OmegaConf leaves the sections of plug-ins open.
if TYPE_CHECKING:
    AtCut = DepthPredictor
    AtWindow = TimePredictor
else:
    AtCut = AtWindow = Any

LaunchMode = enum.Enum("LaunchMode", ["auto", "threads", "processes", "external"])


@dataclass
class PredictorConfig:
    depth: AtCut = plugin(DepthPredictor, in_depth.Critic)  # at the cuts between stages, with depth=synthetic
    time: AtWindow = plugin(TimePredictor, in_time.Critic)  # at ends of windows, with time=synthetic


@dataclass
class LaunchConfig:
    mode: LaunchMode = LaunchMode.auto  # what the stages are: threads, processes here, or processes of an engine
    torch_threads: int | None = one_or_more(None)  # [threads] of torch per stage; null: cores / stages


@dataclass
class EmulateConfig:
    forward_ms: float = zero_or_more(0.0)  # [milliseconds] of one batch on one stage; of a microbatch its share
    backward_ms: float = zero_or_more(0.0)  # [milliseconds] of one batch on one stage; the optimizer's step comes on
    # top
    cut_ms: float = zero_or_more(0.0)  # [milliseconds] of one update of what is at a cut: a predictor, for each target
    # that has come, or a local head


@dataclass
class EvaluateConfig:
    every: int | None = one_or_more(250)  # [steps] between validation passes; null: only at the end
    windows: int | None = one_or_more(None)  # [windows] of validation per pass; null: all
    probe: int | None = one_or_more(None)  # [steps] between probes: synthetic against exact gradients on one sequence;
    # null: none
    probe_windows: int = one_or_more(8)  # [windows] most, of that sequence, all of whose activations are kept
    patience: int | None = one_or_more(None)  # [passes] stop after so many that were no better than the best; each is
    # then saved


@dataclass
class CheckpointConfig:
    every: int | None = one_or_more(500)  # [steps] between checkpoints; null: only at the end
    keep: int = one_or_more(2)  # [checkpoints] complete ones that stay; older ones are removed
