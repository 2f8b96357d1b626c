"""The rules of predictors that convolve."""

from __future__ import annotations

from dni.errors import ConfigError
from workers.config.schema import PredictorKind
from workers.config.settings import Config


def check_convolutions(config: Config) -> None:
    """Refuse a predictor that convolves where there is no height and width. Raises ConfigError."""
    depth, time, model = config.predictor.depth, config.predictor.time, config.model
    if time.kind is PredictorKind.conv:
        raise ConfigError("predictor.time.kind=conv: a state has no height and width; use predictor.time.kind=mlp, say")
    if depth.kind is not PredictorKind.conv:
        return
    if not model.feature_maps:
        raise ConfigError(
            f"predictor.depth.kind=conv needs feature maps, and between the layers of model={model.name} there are "
            "none: use predictor=critic, say (or model=cnn or model=resnet)"
        )
    if not depth.hidden:
        raise ConfigError("predictor.depth.kind=conv needs channels: set predictor.depth.hidden=32, say")
