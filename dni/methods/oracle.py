"""Exact gradients at every window's end, for analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from dni.errors import ConfigError, UsageError
from dni.interfaces.base import Interface
from dni.interfaces.oracle import OracleInterface
from dni.methods.cut import TimeCutContext
from dni.methods.in_time import TimeMethod
from dni.plugin import RunContext


@dataclass
class Oracle(TimeMethod):
    """The exact gradient of the rest of the sequence: a bound for every predictor (`OracleInterface`)."""

    name: ClassVar[str] = "oracle"

    def interface(self, cut: TimeCutContext) -> Interface:
        """Build the interface. Raises UsageError if the rest of a sequence is not known."""
        if cut.rest is None:
            raise UsageError("an oracle needs the rest of the sequence, which this data does not know")
        return OracleInterface(cut.module, cut.rest, cut.loss)

    def check(self, run: RunContext) -> None:
        super().check(run)
        if run.stages > 1 or not run.data.known_ahead:
            raise ConfigError(
                "time=oracle runs the rest of a sequence through the whole model: it needs stages=1 and sequences that "
                "are known ahead (data=copy or repeat_copy, data.streaming=false), not "
                f"stages={run.stages} data={run.data.name}"
            )
        if run.evaluate.probe is not None:
            raise ConfigError(
                f"evaluate.probe={run.evaluate.probe} would compare an oracle with itself: set evaluate.probe=null"
            )
