"""Train on a few windows again and again: a model, a loss and a rate that work learn them by heart."""

from __future__ import annotations

import torch
from torch import Tensor

from dni.data.base import Data
from dni.errors import DivergedError
from dni.named_tensors import Value
from dni.rng import without_dropout
from dni.stages.base import Stage
from workers.build.own_code import as_config_error
from workers.checks.alignment import misaligned
from workers.checks.verdict import Verdict, first_windows, parts_of
from workers.config.settings import Config


def check_overfit(config: Config, data: Data, *, steps: int = 500, below: float = 0.05) -> Verdict:
    """Train on the first batch with labels until its loss is `below` times the first one, for at most `steps` steps.

    The settings' optimizer and clipping are used, with true gradients at the cuts and without dropout. Labels that
    belong to other inputs can be learned by heart, too, so they are looked at first. Raises ConfigError for a model
    that cannot run.
    """
    window, labels = first_windows(config, data)
    fault = misaligned(window.inputs, labels)
    if fault:
        return Verdict(False, fault)
    fresh = torch.ones_like(window.reset)
    with as_config_error(f"model={config.model.name} cannot be checked"):
        stages = [
            Stage(chain, config.optimizer.build(chain.parameters()), clip=config.optimizer.clip, first=index == 0)
            for index, chain in enumerate(parts_of(config))
        ]
        count, losses = max(1, config.loss.count(labels)), list[float]()
        for _ in range(steps):
            try:
                losses.append(_step(config, stages, window.inputs, labels, fresh) / count)
            except DivergedError as error:
                return Verdict(False, f"it diverges at step {len(losses)}: {error}; lower optimizer.learning_rate")
            if losses[-1] <= below * losses[0]:
                return Verdict(True, f"the loss of one batch falls from {losses[0]:.3g} to {losses[-1]:.3g} "
                                     f"{config.loss.unit} per label in {len(losses)} steps")  # fmt: skip
    return Verdict(False, _stuck(losses, below))


def _step(config: Config, stages: list[Stage], value: Value, labels: Tensor, fresh: Tensor) -> float:
    for stage in stages:
        with without_dropout(stage.module):
            value, _ = stage.forward(value, fresh)
    loss, start = config.loss.gradient(value, labels)
    gradient: Value | None = start
    if not torch.isfinite(loss):
        raise DivergedError(f"the loss is {loss.item()}")
    for stage in reversed(stages):
        with without_dropout(stage.module):
            gradient = stage.backward(gradient).activation
        stage.update(max(1, config.loss.count(labels)))
    return loss.item()


def _stuck(losses: list[float], below: float) -> str:
    least = min(losses)
    why = "raise optimizer.learning_rate or --steps, and look at layers without a gradient (dni-check gradients)"
    if least > 0.95 * losses[0]:
        why = "nothing is learned: look at the learning rate, the labels, and layers whose gradient is zero"
    return (
        f"after {len(losses)} steps on one batch the loss is still {losses[-1]:.3g}, and was {losses[0]:.3g}: it "
        f"should fall below {below:g} of that; {why}"
    )
