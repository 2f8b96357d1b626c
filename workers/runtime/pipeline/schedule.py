"""Run torch's pipeline schedule on the parts of one stage, for windows of one shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from dni.stages.base import Stage
from workers.build.model import build_chains
from workers.config.settings import Config
from workers.runtime.pipeline.microbatches import Microbatches
from workers.runtime.pipeline.stage import Computing, MicrobatchStage


def shapes_of(config: Config, window: torch.Size, dtype: torch.dtype) -> list[torch.Size]:
    """Return the shape of the window and of every part's output, each for the whole batch."""
    shapes = [window]
    with torch.device("meta"):  # no weights are allocated
        x = torch.zeros(window, dtype=dtype)
        for chain in build_chains(config):
            x, _ = chain.eval()(x, chain.initial_state(len(x)))
            shapes.append(x.shape)
    return shapes


class Pipeline:
    """Runs the M microbatches of a step forward and backward, in the order of the schedule.

    Args:
        stages: the stages of this process, by the index of their part.
        shapes: shapes of the whole batch, before and after every part (`shapes_of`).
        loss: returns the summed loss of one microbatch from its scores and labels; the last stage calls it M times a
            step.
        computing: adds up the time of the passes.
    """

    def __init__(
        self,
        config: Config,
        stages: Mapping[int, Stage],
        shapes: Sequence[torch.Size],
        loss: Callable[[Tensor, Tensor], Tensor],
        computing: Computing,
    ) -> None:
        self.window = shapes[0]
        self.first, self.last = 0 in stages, config.parts - 1 in stages
        self.modules = [Microbatches(stage, config.microbatches) for stage in stages.values()]
        share = config.microbatches * len(stages)  # divides the emulated time of a batch
        each = [torch.Size((shape[0] // config.microbatches, *shape[1:])) for shape in shapes]
        parts = [
            MicrobatchStage(
                module, index, config.parts, (each[index], each[index + 1]),
                computing=computing,
                forward_ms=config.emulate.forward_ms / share,
                backward_ms=config.emulate.backward_ms / share,
            )
            for module, index in zip(self.modules, stages, strict=True)
        ]  # fmt: skip
        self.schedule = _schedule(config, parts, loss)

    def step(self, value: Tensor, labels: Tensor, reset: Tensor) -> None:
        """Add the gradients of a window to the parameters' `grad`. Shapes: value as `shapes[0]`, reset (B,) bool."""
        for module in self.modules:
            module.begin(reset)
        device = self.modules[0].stage.device
        inputs = (value.to(device),) if self.first else ()
        self.schedule.step(*inputs, target=labels.to(device) if self.last else None, return_outputs=False)
        for module in self.modules:
            module.end()


def _schedule(
    config: Config, parts: list[MicrobatchStage], loss: Callable[[Tensor, Tensor], Tensor]
) -> PipelineScheduleSingle | PipelineScheduleMulti:
    logging.getLogger("torch.distributed.pipelining.schedules").setLevel(
        logging.CRITICAL
    )  # a lost stage is reported by `lost_neighbours`
    assert config.depth.schedule is not None
    kind = getattr(schedules, config.depth.schedule)
    given = [*parts] if issubclass(kind, PipelineScheduleMulti) else parts[0]
    return kind(given, config.microbatches, loss_fn=loss, scale_grads=False)  # type: ignore[no-any-return]
