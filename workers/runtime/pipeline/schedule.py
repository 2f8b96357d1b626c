"""Run torch's pipeline schedule on the parts of one stage, for windows of one shape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.schedules import PipelineScheduleMulti, PipelineScheduleSingle

from dni.named_tensors import Value, batch_of, map_tensors, named
from dni.stages.base import Stage
from workers.build.trace import is_traced
from workers.comm.edge import WaitTime
from workers.config.settings import Config
from workers.runtime.pipeline.microbatches import Microbatches
from workers.runtime.pipeline.stage import MicrobatchStage
from workers.runtime.pipeline.values import fits, specs_of


class Pipeline:
    """Runs the M microbatches of a step forward and backward, in the order of the schedule.

    Args:
        stages: the stages of this process, by the index of their part.
        window: the first stage's input, of the shapes that the pipeline is for.
        loss: returns the summed loss of one microbatch from its scores and labels; the last stage calls it M times a
            step.
        computing: adds up the time of the passes.
    """

    def __init__(
        self,
        config: Config,
        stages: Mapping[int, Stage],
        window: Value,
        loss: Callable[[Tensor, Tensor], Tensor],
        computing: WaitTime,
    ) -> None:
        self.window = map_tensors(lambda each: torch.empty_like(each, device="meta"), window)
        self.first, self.last = 0 in stages, config.parts - 1 in stages
        self.microbatches = microbatches_of(config, batch_of(window))
        size = batch_of(window) // self.microbatches
        traced = any(is_traced(stage.module) for stage in stages.values())
        specs = specs_of(config, map_tensors(lambda each: each[:size], window), traced=traced)
        self.modules = [
            Microbatches(stage, part, self.microbatches, specs[part], specs[part + 1]) for part, stage in stages.items()
        ]
        share = self.microbatches * len(stages)  # divides the emulated time of a batch
        self._parts = [
            MicrobatchStage(
                module, config.parts,
                computing=computing,
                forward_ms=config.emulate.forward_ms / share,
                backward_ms=config.emulate.backward_ms / share,
            )
            for module in self.modules
        ]  # fmt: skip
        self.schedule = _schedule(config, self.microbatches, self._parts, loss)

    @property
    def sent_bytes(self) -> int:
        """Bytes of the activations and gradients sent to other parts so far."""
        return sum(part.sent_bytes for part in self._parts)

    def takes(self, value: Value) -> bool:
        """Return whether the pipeline is for windows of these names and shapes."""
        return fits(named(self.window), value)

    def step(self, value: Value, labels: Tensor, reset: Tensor) -> None:
        """Add the gradients of a window to the parameters' `grad`. The value is as `window`, reset (B,) bool."""
        for module in self.modules:
            module.begin(reset)
        device = self.modules[0].stage.device
        inputs = [named(value)[name].to(device) for name in named(self.window)] if self.first else []
        self.schedule.step(*inputs, target=labels.to(device) if self.last else None, return_outputs=False)
        for module in self.modules:
            module.end()


def microbatches_of(config: Config, batch: int) -> int:
    """Return M for a batch of this size: the setting, or, for the last and smaller batch of a pass, the most below it.

    All microbatches are of one size.
    """
    in_rounds = issubclass(_kind(config), PipelineScheduleMulti)  # of the same number of microbatches each
    return max(
        count
        for count in range(1, config.microbatches + 1)
        if batch % count == 0 and not (in_rounds and count % max(1, count // config.stages))
    )


def _kind(config: Config) -> type[PipelineScheduleSingle | PipelineScheduleMulti]:
    assert config.depth.schedule is not None
    return getattr(schedules, config.depth.schedule)  # type: ignore[no-any-return]


def _schedule(
    config: Config, microbatches: int, parts: list[MicrobatchStage], loss: Callable[[Tensor, Tensor], Tensor]
) -> PipelineScheduleSingle | PipelineScheduleMulti:
    logging.getLogger("torch.distributed.pipelining.schedules").setLevel(
        logging.CRITICAL
    )  # a lost stage is reported by `lost_neighbours`
    kind = _kind(config)
    if issubclass(kind, schedules.Schedule1F1B) and microbatches < config.stages:  # a smaller batch
        kind = schedules.ScheduleGPipe
    given = [*parts] if issubclass(kind, PipelineScheduleMulti) else parts[0]
    return kind(given, microbatches, loss_fn=loss, scale_grads=False)  # type: ignore[arg-type]
