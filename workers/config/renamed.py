"""Settings that were renamed, and their new names."""

from __future__ import annotations

#: New name by old name.
RENAMED = {
    "lane_steps": "max_timesteps",
    "predictor.time.lookahead": "predictor.time.future_labels",
    "depth.window": "depth.max_in_flight",
    "data.block": "data.block_length",
    "depth.chunks": "depth.virtual_stages",
    "model.cut_at": "model.split_points",
    "predictor.depth.at_once": "predictor.depth.eager_loss",
    "predictor.depth.cells": "predictor.depth.pool_grid",
    "predictor.depth.fade": "predictor.depth.staleness_decay",
    "predictor.depth.fits": "predictor.depth.steps_per_target",
    "predictor.depth.match": "predictor.depth.gradient_weight",
    "predictor.time.fits": "predictor.time.steps_per_target",
    "predictor.time.match": "predictor.time.gradient_weight",
    "data.kind": "data=NAME, or data._target_=MODULE.CLASS",
    "depth.clocks": "depth=multi_rate depth.update_periods=[1,2]",
    "depth.inputs": "depth=synthetic_inputs",
    "depth.update_probability": "depth=irregular depth.update_probability=P",
    "predictor.inputs.hidden": "depth=synthetic_inputs depth.input_hidden=UNITS",
    "predictor.inputs.learning_rate": "depth=synthetic_inputs depth.input_learning_rate=RATE",
    "depth.method": "depth=NAME, or depth._target_=MODULE.CLASS",
    "model.image": "model.input_shape",
    "model.kind": "model=NAME, or model._target_=MODULE.CLASS",
    "time.method": "time=NAME, or time._target_=MODULE.CLASS",
    "predictor.depth.kind": "predictor=NAME, or predictor.depth._target_=MODULE.CLASS",
    "predictor.time.kind": "predictor=NAME, or predictor.time._target_=MODULE.CLASS (kind=oracle: time=oracle)",
    "predictor.time.context": "predictor=soft_label_critic for context=window; others look ahead, or have a context",
    "predictor.time.horizon": "time=lambda_return time.horizon=WINDOWS",
    "predictor.time.lambda_": "time=lambda_return time.lambda_=SHARE",
    "predictor.time.auxiliary": "time=auxiliary time.auxiliary=WEIGHT",
    "predictor.depth.replay": "depth=replay depth.replay=TARGETS",
    "optimizer.decay_steps": "optimizer.schedule.decay_steps",
    "optimizer.final": "optimizer.schedule.final",
    "optimizer.kind": "optimizer=NAME, or optimizer._target_=MODULE.CLASS",
    "optimizer.schedule": "optimizer/schedule=NAME, or optimizer.schedule._target_=MODULE.CLASS",
    "optimizer.warmup_steps": "optimizer.schedule.warmup_steps",
    "transport.kind": "transport=NAME, or transport._target_=MODULE.CLASS",
    "predictor.depth.mix": "depth=lambda_return depth.lambda_depth=SHARE",
}


def now_written(name: str) -> str:
    """Return a hint with the new name of a renamed setting, to end a message with; empty for any other name."""
    return f" (it is written {RENAMED[name]} now)" if name in RENAMED else ""
