"""The rules of stages that predict their inputs."""

from __future__ import annotations

from dni.errors import ConfigError
from dni.methods.base import InputKind
from workers.config.settings import Config


def check_inputs(config: Config) -> None:
    """Refuse data or models that not every stage can read or predict for itself. Raises ConfigError."""
    if config.depth.inputs is not InputKind.synthetic:
        return
    if config.data.grows:
        raise ConfigError(
            "depth.inputs=synthetic makes every stage read the data for itself, and the curriculum of "
            f"data={config.data.name} depends on losses that only the first one hears of: set data.length (or "
            "depth.inputs=received)"
        )
    if config.data.numbers:
        raise ConfigError(
            f"depth.inputs=synthetic predicts from symbols or images, and data={config.data.name} has vectors: set "
            "depth.inputs=received"
        )
    if not config.predictor.inputs.hidden and config.model.carries_state:
        raise ConfigError("predictor.inputs.hidden=0: a GRU predicts what stages with state send: set 128, say")
