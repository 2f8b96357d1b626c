"""The rules of stages that predict their inputs."""

from __future__ import annotations

from dni.errors import ConfigError
from dni.methods.base import InputKind
from workers.config.schema import DataKind, ModelKind
from workers.config.settings import Config


def check_inputs(config: Config) -> None:
    """Refuse data or models that not every stage can read or predict for itself. Raises ConfigError."""
    asked, kind = "depth.inputs=synthetic", config.data.kind
    if config.depth.inputs is not InputKind.synthetic:
        return
    if kind in (DataKind.copy, DataKind.repeat_copy) and config.data.length is None:
        raise ConfigError(
            f"{asked} makes every stage read the data for itself, and the curriculum of data={kind.name} depends on "
            "losses that only the first one hears of: set data.length (or depth.inputs=received)"
        )
    images = kind in (DataKind.mnist, DataKind.cifar10)
    if not config.predictor.inputs.hidden and not images and config.model.kind is not ModelKind.mlp:
        raise ConfigError("predictor.inputs.hidden=0: a GRU predicts what stages with state send: set 128, say")
