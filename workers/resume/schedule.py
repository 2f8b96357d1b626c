"""The schedule of the learning rate where a run goes on for other steps than it was to take."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from dni.errors import ResumeError
from dni.lr_schedule import rate_after
from workers.config.settings import Config

log = logging.getLogger(__name__)


def settle_schedule(config: Config, before: Config, asked: int | None, step: int) -> Config:
    """The settings to hold against those of `config`: `before`, with the end of the schedule that was agreed on.

    `asked`: optimizer.schedule.decay_steps as it was given, None if it was left to the number of steps.
    Raises ResumeError where the schedule would end elsewhere without having been asked to.
    """
    own, earlier, planned = config.optimizer.schedule, before.optimizer.schedule, before.planned_steps
    end, was = own.decay_steps, earlier.decay_steps
    if not own.ends or type(earlier) is not type(own) or end is None or was is None:
        return before
    agreed = replace(before, optimizer=replace(before.optimizer, schedule=replace(earlier, decay_steps=end)))
    name, next_step, setting = own.name, step + 1, "optimizer.schedule.decay_steps"
    if end == was:
        if config.planned_steps > max(planned, was):
            log.warning(
                "the %s schedule ends at step %d, and the rate stays at %g: %s=%d stretches it",
                name, was, _rate(before, was), setting, config.planned_steps,
            )  # fmt: skip
        return before
    if asked is None:
        raise ResumeError(
            f"resume={config.resume}: the {name} schedule was to end at step {was}, as many as there were to be, and "
            f"now there are {end}: add {setting}={end} to stretch it (step {next_step} is then taken at a "
            f"rate of {_rate(agreed, step):g}), {setting}={was} to let it end there (from then on the rate "
            f"is {_rate(before, was):g}), or begin a new one with its weights: start_from={config.resume} instead "
            "of resume"
        )
    log.info(
        "the %s schedule ends at step %d now, not at %d: step %d is taken at a rate of %g, not %g",
        name, end, was, next_step, _rate(agreed, step), _rate(before, step),
    )  # fmt: skip
    return agreed


def _rate(config: Config, done: int) -> float:
    """The learning rate after so many steps."""
    own = config.optimizer
    optimizer = own.build([nn.Parameter(torch.zeros(1, 1))])
    return rate_after(own.schedule, optimizer, config.decay_steps, done)
