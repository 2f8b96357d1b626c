"""Settle the schedule of the learning rate for a resumed run with another number of steps."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import nn

from dni.errors import ResumeError
from dni.lr_schedule import rate_after
from workers.config.settings import Config

log = logging.getLogger(__name__)


def settle_schedule(config: Config, before: Config, given: int | None, step: int) -> Config:
    """Return `before` with the schedule's end of `config`, for comparison with `config`.

    `given` is optimizer.schedule.decay_steps as given, None if it follows the number of steps. Raises ResumeError if
    the schedule would end at another step that was not given.
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
                "the %s schedule ends at step %d and stays at rate %g; %s=%d stretches it",
                name, was, _rate(before, was), setting, config.planned_steps,
            )  # fmt: skip
        return before
    if given is None:
        raise ResumeError(
            f"resume={config.resume}: the {name} schedule was to end at step {was}, the number of steps then, and now "
            f"there are {end}: add {setting}={end} to stretch it (step {next_step} then uses a rate of "
            f"{_rate(agreed, step):g}), {setting}={was} to let it end there (the rate is {_rate(before, was):g} from "
            f"then on), or start a new run with these weights: start_from={config.resume} instead of resume"
        )
    log.info(
        "the %s schedule ends at step %d instead of %d: step %d uses a rate of %g, not %g",
        name, end, was, next_step, _rate(agreed, step), _rate(before, step),
    )  # fmt: skip
    return agreed


def _rate(config: Config, done: int) -> float:
    """Return the learning rate after `done` steps."""
    own = config.optimizer
    optimizer = own.build([nn.Parameter(torch.zeros(1, 1))])
    return rate_after(own.schedule, optimizer, config.decay_steps, done)
