"""The rules between settings where stages tick at different rates."""

from __future__ import annotations

from itertools import pairwise

from dni.errors import ConfigError
from workers.config.schema import DataKind, ModelKind
from workers.config.settings import Config


def check_clocks(config: Config) -> None:
    """Refuse what does not go with clocks, or with two networks of their own tasks. Raises ConfigError."""
    if config.depth.clocks:
        _check_clocks(config)
    two = config.data.kind is DataKind.two_clocks
    if two != (config.model.kind is ModelKind.two_clocks):
        data, model = config.data.kind.name, config.model.kind.name
        raise ConfigError(
            f"data={data} does not go with model={model}: data=two_clocks and model=two_clocks go together only "
            "(experiment=two_clocks has both)"
        )
    if two:
        _check_two(config)
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
                "depth.clocks=[] and another data than two_clocks)"
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
    if config.lookahead or config.history:
        raise ConfigError(
            f"{asked}: what lies beside a window is not what a slower stage reads next: set "
            "predictor=mlp predictor.time.context=none (or time=truncated)"
        )


def _check_two(config: Config) -> None:
    data, cut_at = config.data, config.model.cut_at
    if config.stages < 2 or cut_at[:1] != ["lstm_b"]:
        raise ConfigError(
            f"data=two_clocks needs network A alone in the first of two or more stages, not stages={config.stages} "
            f"model.cut_at=[{','.join(cut_at)}]: set stages=2 model.cut_at=[lstm_b]"
        )
    if not config.depth.multi_rate:
        raise ConfigError(
            f"data=two_clocks adds the gradient of the message to that of A's own task, and "
            f"depth={config.depth.name} has none: use depth=synthetic or depth=backprop"
        )
    if config.time.answers or config.whole_sequences:
        raise ConfigError(f"data=two_clocks goes with time=truncated, not with time={config.time.name}")
    if data.block % data.window:
        raise ConfigError(
            f"data.block={data.block} is not a multiple of data.window={data.window}: set data.window={data.block}, say"
        )
    if data.sequence is not None and data.sequence % data.block:
        raise ConfigError(
            f"data.sequence={data.sequence} is not a multiple of data.block={data.block}: set "
            f"data.sequence={data.block**2}, say (or data.sequence=null)"
        )
