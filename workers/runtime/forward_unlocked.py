"""What a stage reads that does not wait for the one before it: the data, and a prediction of what will come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dni.errors import OutOfOrder
from dni.interfaces.input import InputInterface
from workers.comm.edge import Loss
from workers.comm.frame import Frame, Kind
from workers.comm.upstream import Upstream
from workers.runtime.feed import Feed


class ForwardUnlocked:
    """Training steps from a feed of the stage's own, their values predicted; all else from the edge, in its place.

    Has the calls of an upstream edge. The value that comes over the edge for a step is the target of the prediction,
    and only then the step is answered: with the gradient at the predicted value, which the stage before takes for that
    of its output. A stage is at most `window` steps ahead of what has come. Where the feed says that the run validates,
    probes, saves or ends, it waits for the frame of the previous stage: there all stages are at the same step.

    Args:
        edge: to the previous stage.
        feed: of the same data and schedule as the first stage's; it is never told to stop.
        inputs: predicts.
        window: W.
        lag: the value of step t - lag - 1, and none after it, is learned from before step t; None takes what has come.
    """

    def __init__(self, edge: Upstream, feed: Feed, inputs: InputInterface, *, window: int, lag: int | None) -> None:
        self.edge, self.feed, self.inputs, self.lag = edge, feed, inputs, lag
        self._ahead = window if lag is None else lag + 1
        self._given = self._heard = feed.start  # the newest step given to the stage; whose value has come
        self._answers: dict[int, tuple[Tensor | None, Sequence[Loss]]] = {}  # of steps whose value has not come
        self._early: dict[int, Tensor] = {}  # values that came before their time
        self._figures: dict[str, Any] = {}

    def receive(self) -> Frame:
        """The next training step, or, where it is time, the previous stage's frame of another kind.

        Raises as `Upstream.receive`, and OutOfOrder where the two stages' schedules differ.
        """
        step = self._given + 1
        self._hear(step - self._ahead)  # first of all: the end of the run may be announced
        frame = self.feed.receive()
        if frame.kind is not Kind.STEP:
            self._hear(self._given)
            return self._expected(self.edge.receive(), frame.kind, frame.step)
        self._learn(step)
        self._given = step
        value = self.inputs.predict(step, frame.tensors["value"], frame.tensors["reset"])
        return replace(frame, tensors={**frame.tensors, "value": value})

    def finish(
        self,
        frame: Frame,
        gradient: Tensor | None = None,
        losses: Sequence[Loss] = (),
        *,
        late: int = 0,
        more: bool = False,
    ) -> None:
        """As `Upstream.finish`; the answer to a training step waits until the frame has come that it is for."""
        if frame.kind is Kind.STEP:
            self._answers[frame.step] = gradient, losses
        else:
            self.edge.finish(frame, gradient, losses)

    def state_dict(self) -> dict[str, Any]:
        """Where the data is, the predictor, and what it has not learned from yet; at a mark nothing is unanswered."""
        state = {"feed": self.feed.state_dict(), "inputs": self.inputs.state_dict(), "early": self._early}
        return {**state, "figures": self._figures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.feed.load_state_dict(state["feed"])
        self.inputs.load_state_dict(state["inputs"])
        self._early, self._figures = dict(state["early"]), state.get("figures", {})

    def figures(self) -> dict[str, Any]:
        """How well inputs were predicted since the last call, or before it if nothing was learned since."""
        recent = self.inputs.take_recent()
        if any(figure is not None for figure in recent.values()) or not self._figures:
            self._figures = recent
        return self._figures

    def pending(self) -> int:
        """Frames received and not yet taken."""
        return self.edge.pending()

    def _hear(self, needed: int) -> None:
        """Take the values of steps that the stage has been given: wait for those up to `needed`, then what is here."""
        while self._heard < self._given:
            frame = self.edge.receive() if self._heard < needed else self.edge.poll()
            if frame is None:
                return
            self._take(self._expected(frame, Kind.STEP, self._heard + 1))

    def _take(self, frame: Frame) -> None:
        self._heard = frame.step
        self._early[frame.step] = frame.tensors["value"]
        if "last" in frame.tensors:
            self.feed.last = int(frame.tensors["last"])
        self.edge.finish(frame, *self._answers.pop(frame.step))

    def _learn(self, step: int) -> None:
        last = step if self.lag is None else step - self.lag - 1
        for due in sorted(early for early in self._early if early <= last):
            self.inputs.target(due, self._early.pop(due))

    def _expected(self, frame: Frame, kind: Kind, step: int) -> Frame:
        if (frame.kind, frame.step) != (kind, step):
            raise OutOfOrder(
                f"{frame.kind.name} of step {frame.step} came where {kind.name} of step {step} was due: do all stages "
                "read the same data?"
            )
        return frame
