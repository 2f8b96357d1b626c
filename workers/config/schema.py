"""The typed schema of the settings groups: names, types, defaults and explanations.

The comment beside a setting, and the comment lines below it, are its explanation: `dni-train --explain` prints them
(`workers.cli.explain`). The comment of a number begins with its unit in brackets.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dni.predictors import in_depth, in_time
from dni.predictors.settings import DepthPredictor, TimePredictor
from dni.ranges import one_or_more, port, zero_or_more
from workers.config.plugins import plugin

# OmegaConf must not type-check the sections of plug-ins.
if TYPE_CHECKING:
    AtCut = DepthPredictor
    AtWindow = TimePredictor
else:
    AtCut = AtWindow = Any

Precision = enum.Enum("Precision", ["fp32", "bf16", "fp16"])
LogFormat = enum.Enum("LogFormat", ["text", "json"])
LoggerKind = enum.Enum("LoggerKind", ["wandb", "mlflow"])
LaunchMode = enum.Enum("LaunchMode", ["auto", "threads", "processes", "external"])


@dataclass
class PredictorConfig:
    depth: AtCut = plugin(DepthPredictor, in_depth.Critic)  # at the cuts between stages, with depth=synthetic
    time: AtWindow = plugin(TimePredictor, in_time.Critic)  # at ends of windows, with time=synthetic


@dataclass
class LaunchConfig:
    mode: LaunchMode = LaunchMode.auto  # stages run as threads, processes on this machine, or processes that an engine
    # such as torchrun or SLURM has started (external); auto: by the transport
    torch_threads: int | None = one_or_more(None)  # [threads] torch threads per stage; null: cores / stages
    restarts: int = zero_or_more(0)  # [times] start a lost stage again from its own newest checkpoint, while the others
    # go on, or else the run from its newest complete one; with launch=processes. 0: the run ends


@dataclass
class EmulateConfig:
    forward_ms: float = zero_or_more(0.0)  # [milliseconds] forward pass of a batch on a stage; a microbatch takes its
    # share
    backward_ms: float = zero_or_more(0.0)  # [milliseconds] backward pass of a batch on a stage; the optimizer step is
    # not included
    cut_ms: float = zero_or_more(0.0)  # [milliseconds] update of a predictor, once per target, or of a local head, once
    # per step


@dataclass
class EvaluateConfig:
    every: int | None = one_or_more(250)  # [steps] between validation passes; null: one, at the end
    windows: int | None = one_or_more(None)  # [windows] per validation pass; null: all
    probe: int | None = one_or_more(None)  # [steps] between probes, which compare synthetic with exact gradients on one
    # sequence; null: no probes
    probe_windows: int = one_or_more(8)  # [windows] most, of the probed sequence; a probe keeps all their activations
    patience: int | None = one_or_more(None)  # [passes] stop after this many validation passes without improvement; a
    # checkpoint follows each pass


@dataclass
class CheckpointConfig:
    every: int | None = one_or_more(500)  # [steps] between checkpoints; null: one, at the end
    keep: int = one_or_more(2)  # [checkpoints] newest complete ones to keep; older ones are deleted


@dataclass
class TrackingConfig:
    log_format: LogFormat = LogFormat.text  # of log lines; json: one object a line with time, level, run, stage, step
    # and message
    prometheus_port: int | None = port(None)  # [port] at which Prometheus reads the figures of all stages, over HTTP;
    # null: none. It needs pip install 'dni[prometheus]'
    loggers: list[LoggerKind] = field(default_factory=list)  # services that get the figures, too; each needs an extra:
    # pip install 'dni[wandb]', 'dni[mlflow]'
    project: str = "dni"  # of those services: the project of Weights & Biases, the experiment of MLflow
    histograms: int | None = one_or_more(None)  # [steps] between histograms of activations and gradients of every
    # layer, in TensorBoard; null: none
    prometheus_address: str = "127.0.0.1"  # address of that port; 0.0.0.0 lets every machine of the network read it
