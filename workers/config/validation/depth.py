"""The rules of cuts in depth that go further than their methods: updates at random steps, synthetic inputs."""

from __future__ import annotations

from dni.errors import ConfigError
from dni.methods.base import InputKind
from dni.methods.synthetic import Synthetic
from workers.config.schema import DataKind, ModelKind
from workers.config.settings import Config


def check_depth(config: Config) -> None:
    """Refuse what cannot be run, with one line that says what to type instead. Raises ConfigError."""
    if config.depth.update_probability != 1:
        _check_irregular(config)
    if config.depth.inputs is InputKind.synthetic:
        _check_inputs(config)


def _check_irregular(config: Config) -> None:
    """Stages that leave steps out: nobody may wait for the gradient."""
    asked = f"depth.update_probability={config.depth.update_probability}"
    if config.depth.update_probability > 1:
        raise ConfigError(f"{asked} must be at most 1, with which every stage updates at every step")
    if not config.depth.skips_steps:
        raise ConfigError(
            f"{asked} leaves steps without a gradient, and depth={config.depth.name} would wait for it: use "
            "depth=synthetic or depth=local (or depth.update_probability=1)"
        )


def _check_inputs(config: Config) -> None:
    """Every stage reads the data for itself, and waits neither for a gradient nor for an activation."""
    asked, kind = "depth.inputs=synthetic", config.data.kind
    if not isinstance(config.depth, Synthetic):
        raise ConfigError(
            f"{asked} is for stages that do not wait for gradients either, and answers with synthetic ones: use "
            f"depth=synthetic, not depth={config.depth.name} (or depth.inputs=received)"
        )
    if kind in (DataKind.copy, DataKind.repeat_copy) and config.data.length is None:
        raise ConfigError(
            f"{asked} makes every stage read the data for itself, and the curriculum of data={kind.name} depends on "
            "losses that only the first one hears of: set data.length (or depth.inputs=received)"
        )
    images = kind in (DataKind.mnist, DataKind.cifar10)
    if not config.predictor.inputs.hidden and not images and config.model.kind is not ModelKind.mlp:
        raise ConfigError("predictor.inputs.hidden=0: a GRU predicts what stages with state send: set 128, say")
