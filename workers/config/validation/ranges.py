"""The ranges of single settings."""

from __future__ import annotations

import math

from dni.errors import ConfigError
from workers.config.settings import Config

#: torch counts in 64 bits: a thousand random states, which are made from every seed, and weights by some thousands.
LARGEST = 10**15

#: More than any machine has cores; OpenMP ends the process when it cannot have so many.
MOST_THREADS = 4096


def check_numbers(config: Config) -> None:
    """Refuse a number that is out of its range. Raises ConfigError."""
    one_or_more = {
        "steps": config.steps, "stages": config.stages, "log_every": config.log_every,
        "optimizer.accumulate": config.optimizer.accumulate, "lane_steps": config.lane_steps,
        "data.length": config.data.length, "data.block": config.data.block,
        "optimizer.decay_steps": config.optimizer.decay_steps,
        "predictor.depth.cells": config.predictor.depth.cells,
        "predictor.depth.fits": config.predictor.depth.fits, "predictor.time.fits": config.predictor.time.fits,
        "model.units": config.model.units, "model.layers": config.model.layers,
        "model.heads": config.model.heads, "model.memory": config.model.memory,
        "data.batch": config.data.batch, "data.window": config.data.window, "data.sequence": config.data.sequence,
        "depth.microbatches": config.depth.microbatches, "depth.chunks": config.depth.chunks,
        "depth.window": config.depth.window, "predictor.time.lookahead": config.predictor.time.lookahead,
        "predictor.time.horizon": config.predictor.time.horizon,
        "predictor.time.history": config.predictor.time.history,
        "evaluate.every": config.evaluate.every, "evaluate.windows": config.evaluate.windows,
        "evaluate.probe": config.evaluate.probe, "evaluate.probe_windows": config.evaluate.probe_windows,
        "evaluate.patience": config.evaluate.patience,
        "checkpoint.every": config.checkpoint.every, "checkpoint.keep": config.checkpoint.keep,
        "launch.torch_threads": config.launch.torch_threads, "transport.max_frame_mb": config.transport.max_frame_mb,
    }  # fmt: skip
    zero_or_more = {
        "seed": config.seed, "depth.lag": config.depth.lag or 0, "transport.delay_ms": config.transport.delay_ms,
        "optimizer.momentum": config.optimizer.momentum, "optimizer.weight_decay": config.optimizer.weight_decay,
        "optimizer.momentum_decay": config.optimizer.momentum_decay,
        "optimizer.warmup_steps": config.optimizer.warmup_steps, "data.noise": config.data.noise,
        "predictor.depth.warmup": config.predictor.depth.warmup, "predictor.time.warmup": config.predictor.time.warmup,
        "predictor.depth.hidden": config.predictor.depth.hidden, "predictor.time.hidden": config.predictor.time.hidden,
        "predictor.depth.learning_rate": config.predictor.depth.learning_rate,
        "predictor.time.learning_rate": config.predictor.time.learning_rate,
        "predictor.depth.match": config.predictor.depth.match, "predictor.time.match": config.predictor.time.match,
        "predictor.depth.scale": config.predictor.depth.scale, "predictor.time.scale": config.predictor.time.scale,
        "optimizer.staleness": config.optimizer.staleness, "predictor.depth.replay": config.predictor.depth.replay,
        "predictor.depth.mix": config.predictor.depth.mix, "predictor.depth.fade": config.predictor.depth.fade,
        "predictor.time.lambda_": config.predictor.time.lambda_,
        "predictor.inputs.hidden": config.predictor.inputs.hidden,
        "predictor.inputs.learning_rate": config.predictor.inputs.learning_rate,
        "transport.ring_mb": config.transport.ring_mb,
        "predictor.time.auxiliary": config.predictor.time.auxiliary, "emulate.cut_ms": config.emulate.cut_ms,
        "emulate.forward_ms": config.emulate.forward_ms, "emulate.backward_ms": config.emulate.backward_ms,
    }  # fmt: skip
    above_zero = {
        "depth.update_probability": config.depth.update_probability,
        "optimizer.learning_rate": config.optimizer.learning_rate, "optimizer.clip": config.optimizer.clip,
        "predictor.depth.clip": config.predictor.depth.clip, "predictor.time.clip": config.predictor.time.clip,
        "transport.timeout_s": config.transport.timeout_s,
    }  # fmt: skip
    below_one = {
        "optimizer.beta1": config.optimizer.beta1, "optimizer.beta2": config.optimizer.beta2,
        "optimizer.final": config.optimizer.final, "model.dropout": config.model.dropout,
    }  # fmt: skip
    for key, value in one_or_more.items():
        if value is not None and value < 1:
            raise ConfigError(f"{key}={value} must be 1 or more")
    for key, number in zero_or_more.items():
        if not 0 <= number < float("inf"):
            raise ConfigError(f"{key}={number} must be 0 or more, and finite")
    for key, count in (one_or_more | zero_or_more).items():
        if count is not None and count >= LARGEST:
            raise ConfigError(f"{key}={count} must be below {LARGEST}")
    for key, size in above_zero.items():
        if size is not None and not 0 < size < float("inf"):
            raise ConfigError(f"{key}={size} must be above 0, and finite")
    for key, share in below_one.items():
        if not 0 <= share < 1:
            raise ConfigError(f"{key}={share} must be 0 or more, and below 1")
    if (config.launch.torch_threads or 0) > MOST_THREADS:
        raise ConfigError(f"launch.torch_threads={config.launch.torch_threads} must be at most {MOST_THREADS}")
    if config.transport.timeout_s * 1000 <= 4 * config.transport.delay_ms:
        enough = math.ceil(config.transport.delay_ms / 100)
        raise ConfigError(
            f"transport.timeout_s={config.transport.timeout_s:g} is too short for the round trip that "
            f"transport.delay_ms={config.transport.delay_ms:g} makes: set transport.timeout_s={enough} or more"
        )
