"""Pipelined schedules: a batch is split into microbatches, and every stage waits for all their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.errors import ConfigError, UsageError
from dni.interfaces.base import Interface
from dni.methods.base import DepthMethod
from dni.methods.cut import CutContext
from dni.plugin import RunContext
from dni.ranges import one_or_more


@dataclass
class Pipelined(DepthMethod):
    """Base class of the schedules of torch.distributed.pipelining, which runs them.

    Their gradients are those of `Backprop`. Subclasses name the schedule.
    """

    microbatches: int | None = one_or_more(None)  # [parts] M, into which a batch is split; null: as many as stages

    def interface(self, cut: CutContext) -> Interface:
        """Raise UsageError: a pipeline has no interfaces, it passes gradients on itself."""
        raise UsageError(f"depth={self.name} has no cut with an interface: its stages form one pipeline")

    def microbatches_of(self, stages: int) -> int:
        return self.microbatches or stages

    def asked(self, stages: int) -> str:
        """Return the setting of M as a message quotes it."""
        return f"depth.microbatches={self.microbatches or f'null, which is {stages},'}"

    def check(self, run: RunContext) -> None:
        super().check(run)
        batch, count = run.data.batch, self.microbatches_of(run.stages)
        if run.stages == 1:
            raise ConfigError(
                f"depth={self.name} needs two stages or more, and stages=1: set stages=2, say (or depth=backprop)"
            )
        if batch % count:
            raise ConfigError(
                f"{self.asked(run.stages)} does not divide data.batch={batch} into equal parts: set "
                f"data.batch={-(-batch // count) * count}, say"
            )
        if run.model.batch_norm and batch == count:
            raise ConfigError(
                f"{self.asked(run.stages)} leaves one example in each, and model={run.model.name} has batch norm: set "
                f"data.batch={2 * count} or more"
            )


@dataclass
class GPipe(Pipelined):
    """All microbatches forward, then all back (Huang et al. 2019)."""

    name: ClassVar[str] = "gpipe"
    schedule: ClassVar[str] = "ScheduleGPipe"


@dataclass
class OneForwardOneBackward(Pipelined):
    """One microbatch forward, one back, in turn: as GPipe, with fewer activations kept (Narayanan et al. 2019)."""

    name: ClassVar[str] = "1f1b"
    schedule: ClassVar[str] = "Schedule1F1B"

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.microbatches_of(run.stages) < run.stages:
            raise ConfigError(
                f"{self.asked(run.stages)} are fewer than the {run.stages} stages of depth={self.name}: set "
                f"depth.microbatches={run.stages} or more (or use depth=gpipe)"
            )


@dataclass
class Chunked(Pipelined):
    """Base class of the schedules in which every stage holds several parts of the model."""

    virtual_stages: int = one_or_more(2)  # [parts] of the model on one stage, dealt out in turn

    def parts(self, stages: int) -> int:
        return stages * self.virtual_stages

    def check(self, run: RunContext) -> None:
        super().check(run)
        count, stages = self.microbatches_of(run.stages), run.stages
        if count % max(1, count // stages):
            raise ConfigError(
                f"{self.asked(stages)} cannot be dealt out evenly in rounds of {stages} stages or more: set "
                f"depth.microbatches={count // stages * stages}, say"
            )


@dataclass
class Interleaved(Chunked):
    """1F1B over several parts of the model on each stage (Narayanan et al. 2021)."""

    name: ClassVar[str] = "interleaved_1f1b"
    schedule: ClassVar[str] = "ScheduleInterleaved1F1B"

    def check(self, run: RunContext) -> None:
        super().check(run)
        if self.virtual_stages == 1:
            raise ConfigError(
                "depth.virtual_stages=1 leaves depth=interleaved_1f1b nothing to interleave: use depth=1f1b"
            )


@dataclass
class ZeroBubble(Chunked):
    """Backward passes split in two, so that the second halves fill the waits (Qi et al. 2023)."""

    name: ClassVar[str] = "zero_bubble"
    schedule: ClassVar[str] = "ScheduleInterleavedZeroBubble"
