"""Exact gradients at every window's end, for analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.errors import ConfigError, UsageError
from dni.interfaces.base import Interface
from dni.interfaces.oracle import OracleInterface
from dni.methods.cut import RunContext, TimeCutContext
from dni.methods.in_time import TimeMethod


@dataclass
class Oracle(TimeMethod):
    """The exact gradient of the rest of the sequence: what the best of predictors could answer (`OracleInterface`)."""

    name: ClassVar[str] = "oracle"

    def interface(self, cut: TimeCutContext) -> Interface:
        """Raises UsageError where the rest of a sequence is not known."""
        if cut.rest is None:
            raise UsageError("an oracle needs the rest of the sequence, which this data does not tell")
        return OracleInterface(cut.module, cut.rest)

    def check(self, run: RunContext) -> None:
        super().check(run)
        data = run.data
        if run.stages > 1 or data.kind.name not in ("copy", "repeat_copy") or data.streaming:
            raise ConfigError(
                "time=oracle runs the rest of a sequence through the whole model: it needs stages=1, data=copy or "
                f"repeat_copy and data.streaming=false, not stages={run.stages} data={data.kind.name} "
                f"data.streaming={str(data.streaming).lower()}"
            )
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} would compare an oracle with itself: set evaluate.probe=null"
            )
