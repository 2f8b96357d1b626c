"""The schedule of a run: the first stage reads it instead of an upstream edge."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Event
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from dni.data.base import Data
from dni.data.history import History
from dni.data.window import Window, split_labels
from workers.comm.edge import Loss
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, frame_tensors
from workers.config.settings import Config
from workers.tracking.early_stopping import INTERRUPTED, Stop


class Feed:
    """Training windows in order, with validation passes, probes, checkpoint barriers and the end in their places.

    It has the methods of `Upstream`, so that the training loop is the same for every stage.

    Args:
        config: steps, and how often to validate, to probe and to save.
        data: the sources.
        start: steps that a resumed run has already taken.
        stop: once set, the run ends after the current step. If later stages may be ahead of that step, it ends at the
            last step that any of them can have reached. The next frame announces that step. An interrupt also breaks
            off a validation pass, unless later stages follow the schedule on their own.
        broken_off: called with the step of a pass that was broken off, before the next frame.
    """

    sent_bytes = 0  #: the data is sent no tensors

    def __init__(
        self,
        config: Config,
        data: Data,
        *,
        start: int,
        stop: Event,
        broken_off: Callable[[int], None] = lambda step: None,
    ) -> None:
        self.config, self.data, self.start, self.stop, self.broken_off = config, data, start, stop, broken_off
        self.timesteps = 0  # time steps given out, per stream
        self.last: int | None = None  # the step after which a stopped run ends; None: it is not stopped
        self._history = self._new_history()
        self._frames = self._schedule()

    def receive(self) -> Frame:
        """Return the next frame."""
        return next(self._frames)

    def finish(
        self,
        frame: Frame,
        gradient: Tensor | None = None,
        losses: Sequence[Loss] = (),
        *,
        late: int = 0,
        more: bool = False,
        piggybacked: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """Report the losses to the source of the data; there is no previous stage to answer."""
        for loss in losses:
            self.data.train.report(loss.step - 1, loss.nats, loss.labels)

    def state_dict(self) -> dict[str, Any]:
        """Return the position of the training source."""
        history = self._history and self._history.symbols
        return {"train": self.data.train.state_dict(), "timesteps": self.timesteps, "history": history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.data.train.load_state_dict(state["train"])
        self.timesteps = state["timesteps"]
        if self._history is not None:
            self._history.symbols = state["history"]

    def figures(self) -> dict[str, Any]:
        """Return the figures of the data for the recorder: for a curriculum, the longest sequences that were solved."""
        figures = self.data.train.figures()
        return {**figures, "timesteps": self.timesteps} if figures else {}

    def pending(self) -> int:
        """Return 0: the data never queues."""
        return 0

    def _schedule(self) -> Iterator[Frame]:
        step, saved, probe = self.start, None, self.config.evaluate.probe
        while self._goes_on(step):
            window = self.data.train.next()
            self.timesteps += window.steps
            yield self._announcing(_frame(Kind.STEP, step + 1, window, _context(window, self._history)))
            step += 1
            if self._validates(step):
                yield from self._validation(step)
            if probe and step % probe == 0:
                yield self._probe(step)
            if self._saves(step) and self._goes_on(step):
                yield Frame(Kind.CHECKPOINT, step)
                saved = step
        if saved != step:
            yield Frame(Kind.CHECKPOINT, step)
        yield Frame(Kind.END, step)

    def _announcing(self, frame: Frame) -> Frame:
        if self.last is not None:
            frame.tensors["last"] = torch.tensor(self.last)
        return frame

    def _goes_on(self, step: int) -> bool:
        depth, limit = self.config.depth, self.config.max_timesteps
        if self.last is None and self.stop.is_set():
            self.last = step + depth.steps_ahead(self.config.stages)
        in_time = self.last is None or step < self.last
        return step < self.config.steps and (limit is None or self.timesteps < limit) and in_time

    def _validates(self, step: int) -> bool:
        every = self.config.evaluate.every
        at_the_end = not self._goes_on(step) and step != self.last
        return at_the_end or bool(every and step % every == 0)

    def _saves(self, step: int) -> bool:
        every, patience = self.config.checkpoint.every, self.config.evaluate.patience
        return bool(every and step % every == 0) or (patience is not None and self._validates(step))

    def _validation(self, step: int) -> Iterator[Frame]:
        whole, source = self.data.valid_windows, self.data.valid()
        for n in range(min(whole, self.config.evaluate.windows or whole)):
            if n and self._interrupted():
                return self.broken_off(step)
            frame = _frame(Kind.EVALUATE, step, source.next())
            if max(self.config.periods) > 1:
                frame.tensors["index"] = torch.tensor(n + 1)
            yield frame
        return None

    def _interrupted(self) -> bool:
        """Whether to break off a pass: not for a run out of patience, nor where later stages follow the schedule."""
        interrupted = isinstance(self.stop, Stop) and self.stop.reason == INTERRUPTED
        return interrupted and not self.config.depth.predicts_inputs

    def _probe(self, step: int) -> Frame:
        """Return a sequence, or its first windows, as one long window."""
        source, history, most = self.data.probe(), self._new_history(), self.config.evaluate.probe_windows
        windows = [source.next()]
        while len(windows) < most and not windows[-1].done.any():
            windows.append(source.next())
        one = len(windows) == 1  # named inputs are always one window
        tensors = {
            **frame_tensors(VALUE, windows[0].inputs if one else torch.cat([w.inputs for w in windows], dim=1)),
            "labels": torch.cat([split_labels(w.inputs, w.labels)[0] for w in windows], dim=1),
            "context": torch.stack([_context(w, history) for w in windows]),
            "windows": torch.tensor([w.steps for w in windows]),
        }
        return Frame(Kind.PROBE, step, tensors=tensors)

    def _new_history(self) -> History | None:
        return History(self.config.history) if self.config.history else None


def _frame(kind: Kind, step: int, window: Window, context: Tensor | None = None) -> Frame:
    tensors = {
        **frame_tensors(VALUE, window.inputs),
        "labels": split_labels(window.inputs, window.labels)[0],
        "reset": window.reset,
        "done": window.done,
    }
    if window.local_labels is not None:
        tensors["local_labels"] = window.local_labels
    if context is not None and context.shape[1]:
        tensors["context"] = context
    return Frame(kind, step, tensors=tensors)


def _context(window: Window, history: History | None) -> Tensor:
    """Return the context of the time cut: (B, H) inputs up to the window's end, or (B, L) labels after it."""
    if history is not None:
        return history.read(window)
    later = split_labels(window.inputs, window.labels)[1]
    return later.new_empty(len(later), 0, dtype=torch.int64) if later.is_floating_point() else later
