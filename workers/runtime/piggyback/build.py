"""From settings to what rides along with the frames of a stage."""

from __future__ import annotations

from collections.abc import Sequence

from dni.interfaces.base import Interface
from dni.predictors.copied_layers import CopiedLayers
from dni.predictors.head_settings import CopiedHead
from dni.stages.base import Stage
from dni.stages.tied import Tied
from workers.build.heads.copies import copied_weights
from workers.comm.contents import TensorSpec
from workers.config.settings import Config
from workers.runtime.piggyback.base import Piggyback, Piggybacks
from workers.runtime.piggyback.copied_weights import CopiedWeights, copied_specs
from workers.runtime.piggyback.global_norm import NORM, NORM_SPEC, NORMS, NORMS_SPEC, GlobalNorm, NewestNorms
from workers.runtime.piggyback.tied_weights import TiedWeights, tied_specs

Specs = dict[str, TensorSpec]


def downstream_specs(config: Config, ties: Sequence[Tied], index: int) -> Specs:
    """Return the tensors that ride to stage `index` with frames of any kind."""
    return tied_specs(ties, index) | ({NORM: NORM_SPEC} if config.optimizer.over_all_stages else {})


def upstream_specs(config: Config, ties: Sequence[Tied], index: int) -> Specs:
    """Return the tensors that ride from stage `index` with the replies to training steps."""
    found = tied_specs(ties, index) | copied_specs(config, index)
    if not config.optimizer.over_all_stages:
        return found
    return found | ({NORMS: NORMS_SPEC} if config.depth.locked else {NORM: NORM_SPEC})


def piggyback_of(config: Config, ties: Sequence[Tied], index: int, stage: Stage, depth: Interface) -> Piggyback:
    """Build what rides along, for stage `index` and the interface in depth. It may replace the stage's clipping."""
    parts: list[Piggyback] = [TiedWeights(stage, index, ties)] if ties else []
    heads = [each for top in depth.learners.values() for each in top.modules() if isinstance(each, CopiedLayers)]
    copied = copied_weights(config, index)
    if (heads or copied) and isinstance(config.predictor.depth, CopiedHead):
        parts.append(CopiedWeights(stage, heads, copied, config.predictor.depth))
    if config.optimizer.over_all_stages:
        parts.append(_norm(config, index, stage))
    return Piggybacks(parts) if parts else Piggyback()


def _norm(config: Config, index: int, stage: Stage) -> Piggyback:
    clip = config.optimizer.clip
    norm = GlobalNorm(stage, index, clip) if config.depth.locked else NewestNorms(clip)
    stage.clipping = norm
    return norm
