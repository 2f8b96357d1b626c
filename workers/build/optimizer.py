"""Optimizer and learning-rate schedule of a stage, from the settings."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dni.lr_schedule import Course, schedule, set_course
from dni.stages.base import Stage
from workers.config.schema import OptimizerConfig, OptimizerKind, ScheduleKind
from workers.config.settings import Config


def build_optimizer(module: nn.Module, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's optimizer of that kind, over the module's parameters."""
    parameters, rate, decay = module.parameters(), settings.learning_rate, settings.weight_decay
    betas, momentum = (settings.beta1, settings.beta2), settings.momentum
    if settings.kind is OptimizerKind.adam:
        return torch.optim.Adam(parameters, rate, betas, weight_decay=decay, fused=True)
    if settings.kind is OptimizerKind.adamw:
        return torch.optim.AdamW(parameters, rate, betas, weight_decay=decay, fused=True)
    if settings.kind is OptimizerKind.nadam:
        rising = settings.momentum_decay
        return torch.optim.NAdam(
            parameters, rate, betas, weight_decay=decay, momentum_decay=rising, decoupled_weight_decay=True
        )
    return torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=settings.nesterov)


def build_schedule(optimizer: torch.optim.Optimizer, config: Config) -> torch.optim.lr_scheduler.LRScheduler | None:
    """What moves the optimizer's rate from step to step; None if nothing does."""
    own = config.optimizer
    if own.schedule is ScheduleKind.constant and not own.warmup_steps:
        return None
    return schedule(optimizer, course_of(config))


def course_of(config: Config) -> Course:
    """How the learning rate goes over the steps of a run."""
    own = config.optimizer
    return Course(own.schedule.name, own.warmup_steps, config.decay_steps or 1, own.final)


def follow_course(stage: Stage, config: Config) -> None:
    """Once a checkpoint is loaded: the schedule of these settings, which may end at another step than the one saved."""
    if isinstance(stage.schedule, LambdaLR):
        set_course(stage.schedule, course_of(config))
