"""Probes: compare a stage's synthetic gradients with the exact ones of a whole sequence during training."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dni.diagnostics import Exact, SequenceGraph, in_depth, in_time
from dni.interfaces.base import Interface
from dni.named_tensors import map_tensors
from dni.stages.base import Stage
from workers.comm.downstream import Downstream
from workers.comm.frame import Frame
from workers.comm.roles import VALUE, value_in, without

Figures = dict[str, float | None]


class Probe:
    """Runs a PROBE frame through a stage with its current parameters; the stage is not changed.

    The frame holds one sequence: value (B, S) or (B, S, D), or a dict of named tensors in one window, labels (B, S),
    windows (N,), the number of steps of each window, and context (N, B, C), that of the time cut after each window.
    """

    def __init__(self, stage: Stage, frame: Frame) -> None:
        self.frame = frame
        self.device = stage.device
        self.sizes: list[int] = frame.tensors["windows"].tolist()
        self.labels, self.context = (frame.tensors[name].to(self.device) for name in ("labels", "context"))
        value = map_tensors(lambda each: each.to(self.device), value_in(VALUE, frame.tensors))
        self.graph = SequenceGraph(stage.module, self._windows(value) if isinstance(value, Tensor) else [value])
        self.exact: Exact

    @property
    def output(self) -> Tensor:
        """The output of the whole sequence, (B, S, D)."""
        return torch.cat(self.graph.outputs, dim=1)

    def gradient(self, depth: Interface, downstream: Downstream | None, beside: Mapping[str, Tensor]) -> Tensor:
        """Return the exact dL/d output, at the last stage from the loss, otherwise from the next stage.

        `beside`: further tensors for the next stage.
        """
        if downstream is not None:
            sent = {**without(VALUE, self.frame.tensors), VALUE: self.output, **beside}
            return downstream.exchange(self.frame.kind, self.frame.step, sent)
        gradient = depth.recompute(self.output, self.labels, None)
        assert gradient is not None, "the last stage has the loss"
        return gradient

    def backward(self, output: Tensor) -> Tensor | None:
        """Return the exact dL/d value of the whole sequence from dL/d output; None for a value of integers."""
        self.exact = self.graph.exact(self._windows(output.to(self.device)))
        return torch.cat(self.exact.inputs, dim=1) if self.exact.inputs else None

    def figures(self, depth: Interface, time: Interface) -> Figures:
        """Return the figures of the stage's cuts, after `backward`; None where there is nothing to measure.

        time_cosine, time_r2, time_norm: the predicted dL/dstate against the exact one; parameters, truncated: cosine of
        the parameters' gradient with the exact one, as the time cut makes it and with truncation, both with the exact
        dL/d output; depth_cosine, depth_r2, depth_norm: the predicted dL/d output against the exact one.
        """
        return self._in_time(time) | self._in_depth(depth)

    def _in_time(self, cut: Interface) -> Figures:
        keys = ("time_cosine", "time_r2", "time_norm", "parameters", "truncated")
        if not self.graph.cuts:
            return dict.fromkeys(keys)
        found = in_time(self.graph, self.exact, cut, list(self.context))
        at_cuts = found.cut_cosine, found.cut_r2, found.cut_norm
        predicted = at_cuts if cut.predicts else (None, None, None)
        return dict(zip(keys, (*predicted, found.parameters, found.truncated), strict=True))

    def _in_depth(self, cut: Interface) -> Figures:
        labels = self._windows(self.labels)
        found = in_depth(self.graph, self.exact, cut, labels)
        if found is None:
            return dict.fromkeys(("depth_cosine", "depth_r2", "depth_norm"))
        return {"depth_cosine": found.cosine, "depth_r2": found.r2, "depth_norm": found.norm}

    def _windows(self, sequence: Tensor) -> list[Tensor]:
        return list(torch.split(sequence, self.sizes, dim=1))
