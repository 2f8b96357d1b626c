"""Stages in threads that train on and probe one text, with predictions far from zero."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni.interfaces.base import Interface, TrueInterface, ZeroInterface
from dni.interfaces.loss import LossInterface
from dni.interfaces.synthetic import DecoupledInterface
from dni.models import LSTM
from dni.predictors.critic import SoftmaxCritic
from dni.predictors.regressor import Regressor
from dni.recurrent import Chain
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap
from dni.types import IGNORED
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.transports.local import local_channel
from workers.comm.upstream import Upstream
from workers.runtime.recorder import Recorder
from workers.runtime.worker import Worker
from workers.storage.checkpoint_writer import CheckpointWriter

B, T, L, D, V, WINDOWS = 3, 4, 2, 5, 6, 3


class Script:
    """Replaces the feed with given frames, in order."""

    sent_bytes = 0

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = iter(frames)

    def receive(self) -> Frame:
        return next(self._frames)

    def finish(self, *_: Any, **how: Any) -> None: ...

    def pending(self) -> int:
        return 0

    def figures(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}


class Rig:
    """Stages in threads, in double precision, with predictions far from zero."""

    def __init__(
        self, stages: int, *, depth: str = "synthetic", time: str = "synthetic", dropout: bool = False
    ) -> None:
        torch.manual_seed(1)
        layers = [nn.Embedding(V, D), LSTM(D, D), *([nn.Dropout(0.5)] if dropout else []), LSTM(D, D), nn.Linear(D, V)]
        cut = len(layers) if stages == 1 else len(layers) - 2
        chains = [Chain(*layers[:cut]), *([Chain(*layers[cut:])] if stages == 2 else [])]
        self.stages = [Stage(c.double(), torch.optim.SGD(c.parameters(), 0.1), first=not k, seed=k)
                       for k, c in enumerate(chains)]  # fmt: skip
        self.time = [self._time(time, stage) for stage in self.stages]
        between: Interface = TrueInterface() if depth == "backprop" else self._critic()
        self.depth: list[Interface] = [*([between] if stages == 2 else []), LossInterface()]
        self.records: list[dict[str, Any]] = []

    def _time(self, method: str, stage: Stage) -> Interface:
        if method != "synthetic":
            return ZeroInterface()
        features = sum(s.numel() for s in stage.module.initial_state(1))
        predictor = Regressor(features, hidden=7, classes=V, future_labels=L).double()
        nn.init.normal_(predictor.last.weight)
        return DecoupledInterface(predictor)

    def _critic(self) -> Interface:
        predictor = SoftmaxCritic(D, classes=V).double()
        nn.init.normal_(predictor.last.weight)
        return DecoupledInterface(predictor)

    def run(self, frames: Sequence[Frame], lag: int | None = None) -> list[dict[str, Any]]:
        """Run the frames. Return the probe records by stage and step."""
        ends: list[Any] = [Script([*frames, Frame(Kind.END, 99)]), None]
        clock = WaitTime()
        if len(self.stages) == 2:
            a, b = local_channel(64)
            down = Downstream(a, stage=0, window=4, clock=clock, timeout_s=20)
            ends = [ends[0], down, Upstream(b, stage=1, clock=clock, timeout_s=20), None]
        self.workers = [self._worker(k, ends[2 * k], ends[2 * k + 1], lag) for k in range(len(self.stages))]
        threads = [threading.Thread(target=worker.run, daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        probes = [record for record in self.records if record["kind"] == "probe"]
        assert len(probes) == len(self.stages) * sum(frame.kind is Kind.PROBE for frame in frames)
        return sorted(probes, key=lambda record: (record["stage"], record["step"]))

    def _worker(self, k: int, upstream: Any, downstream: Downstream | None, lag: int | None) -> Worker:
        cuts = self.depth[k], self.time[k]
        recorder = Recorder(self.records.append, k, *cuts, upstream, downstream, WaitTime(), every=1)
        return Worker(
            self.stages[k],
            *cuts,
            Bootstrap(),
            upstream,
            downstream,
            recorder=recorder,
            writer=CheckpointWriter(Path(), len(self.stages)),
            lag=lag,
        )


def ids() -> Tensor:
    return torch.randint(0, V, (B, T * WINDOWS + L + 1), generator=torch.Generator().manual_seed(7))


def training(step: int) -> Frame:
    text, no = ids().flip(1), torch.zeros(B).bool()
    tensors = {"value": text[:, :T], "labels": text[:, 1 : T + 1], "reset": no, "done": no}
    tensors["context"] = text[:, T + 1 : T + L + 1]
    return Frame(Kind.STEP, step, tensors=tensors)


def probe(step: int = 1) -> Frame:
    """Return a probe of three windows of one text with one ignored label."""
    labels = ids()[:, 1:].clone()
    labels[0, 5] = IGNORED
    steps = T * WINDOWS
    context = torch.stack([labels[:, end : end + L] for end in range(T, steps + 1, T)])
    tensors = {"value": ids()[:, :steps], "labels": labels[:, :steps], "windows": torch.tensor([T] * WINDOWS)}
    tensors["context"] = context
    return Frame(Kind.PROBE, step, tensors=tensors)
