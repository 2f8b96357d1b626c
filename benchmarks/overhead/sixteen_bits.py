"""Runs of the demonstration's task in 32 and 16 bits: bits per character reached, and bytes sent."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

from benchmarks.harness.runs import composed
from workers.comm.codec import encode
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import Edge, LinkContext
from workers.comm.transports.inbox import Inbox
from workers.comm.transports.local import Local, LocalEnd
from workers.launch.launcher import launch

#: The largest share by which bits in 16 bits may differ from those in 32.
LIMIT = 0.005
KINDS: dict[str, tuple[str, ...]] = {
    "fp32": ("precision=fp32",),
    "bf16": ("precision=bf16",),
    # the same as fp32 but for rounding: how far apart are runs of one seed anyway?
    "control": ("precision=fp32", f"optimizer.learning_rate={4e-3 * (1 + 1e-6)!r}"),
}
COMMON = (
    "experiment=demo", "time=truncated", "transport=local",
    "launch=threads", "launch.torch_threads=1", "evaluate.every=null", "evaluate.windows=32", "checkpoint.every=null",
    "tensorboard=false", "optimizer.learning_rate=4e-3",
)  # fmt: skip
METHODS = {
    "backprop": (),
    "synthetic": ("depth.lag=1", "predictor.depth.eager_loss=true", "predictor.depth.staleness_decay=1"),
    "local": ("depth.lag=1",),
    "delayed": ("depth.lag=1",),
}

_ALONE = Lock()


class CountedEnd(LocalEnd):
    """An end that counts the bytes of training frames, as they would be encoded."""

    sent: ClassVar[int] = 0  #: by all ends

    def send(self, frame: Frame) -> None:
        if frame.kind in (Kind.STEP, Kind.GRADIENT, Kind.DONE):
            with _ALONE:
                CountedEnd.sent += len(encode(frame))
        super().send(frame)


@dataclass
class Counted(Local):
    """Links between threads that count what they send."""

    def edge(self, previous: LinkContext, next_stage: LinkContext) -> Edge:
        down, up = Inbox(previous.limit, self.delay_s), Inbox(previous.limit, self.delay_s)
        return Edge(CountedEnd(inbox=up, outbox=down), CountedEnd(inbox=down, outbox=up))


def sixteen_bits(steps: int, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return bits and bytes of every method, one run for each seed and precision."""
    return [row(name, steps, seeds) for name in METHODS]


def row(name: str, steps: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Return a method's bits by seed, the relative difference, and the bytes of a step."""
    found = {kind: [run(name, kind, steps, seed) for seed in seeds] for kind in KINDS}
    bits = {kind: [bits for bits, _ in runs] for kind, runs in found.items()}
    sent = {kind: statistics.fmean(nbytes for _, nbytes in runs) / steps for kind, runs in found.items()}
    more, control = (
        [each / full - 1 for full, each in zip(bits["fp32"], bits[k], strict=True)] for k in list(KINDS)[1:]
    )
    ratio = sent["bf16"] / sent["fp32"]
    return {"name": name, "bits": bits, "more": more, "control": control, "bytes": sent, "bytes_ratio": ratio}


def run(name: str, kind: str, steps: int, seed: int) -> tuple[float, int]:
    """Return the bits per character of validation at the end of a run, and the bytes that its stages sent."""
    CountedEnd.sent = 0
    typed = (*COMMON, f"depth={name}", *METHODS[name], *KINDS[kind], f"steps={steps}", f"seed={seed}")
    config = replace(composed(*typed), transport=Counted())
    with tempfile.TemporaryDirectory() as folder:
        summary = launch(config, Path(folder)).summary
    return summary["valid"]["bits_per_label"], CountedEnd.sent
