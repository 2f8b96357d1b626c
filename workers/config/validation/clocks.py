"""The rules between settings where stages tick at different rates."""

from __future__ import annotations

from itertools import pairwise

from dni.errors import ConfigError
from workers.config.settings import Config


def check_clocks(config: Config) -> None:
    """Refuse what does not go with clocks, or with a first stage that has a task of its own. Raises ConfigError."""
    if config.depth.clocks:
        _check_clocks(config)
    two = bool(config.data.own_classes)
    if two or config.depth.clocks:
        _check_alone(config)
    if (two or config.depth.clocks) and config.evaluate.probe is not None:
        raise ConfigError(
            f"evaluate.probe={config.evaluate.probe} takes a whole sequence through all stages at one rate: set "
            "evaluate.probe=null"
        )


def _check_alone(config: Config) -> None:
    """Refuse what counts on every stage working at every step, with nothing of its own."""
    plain = {
        "depth.update_probability": (config.depth.update_probability, 1.0),
        "depth.inputs": (config.depth.inputs.name, "received"),
        "optimizer.staleness": (config.optimizer.staleness, 0.0),
    }
    for key, (asked, needed) in plain.items():
        if asked != needed:
            raise ConfigError(
                f"{key}={asked} counts on stages that work at every step, for one task: set {key}={needed} (or "
                "depth.clocks=[] and data without a task of the first stage's own)"
            )


def _check_clocks(config: Config) -> None:
    clocks = config.depth.clocks
    asked = f"depth.clocks=[{','.join(map(str, clocks))}]"
    if len(clocks) != config.stages:
        raise ConfigError(
            f"{asked} names {len(clocks)} clocks for {config.stages} stages: name one each, or set depth.clocks=[]"
        )
    if clocks[0] != 1 or any(after < 1 or after % before for before, after in pairwise(clocks)):
        raise ConfigError(
            f"{asked} must begin with 1 and go on in multiples, each of the one before: "
            f"depth.clocks=[{','.join(str(2**k) for k in range(config.stages))}], say"
        )
    if not config.depth.multi_rate:
        raise ConfigError(
            f"{asked} tells when a gradient is asked for, and depth={config.depth.name} asks for none then: use "
            "depth=synthetic or depth=backprop (or depth.clocks=[])"
        )
    if config.future_labels or config.history:
        raise ConfigError(
            f"{asked}: what lies beside a window is not what a slower stage reads next: set "
            "predictor=mlp predictor.time.context=none (or time=truncated)"
        )
