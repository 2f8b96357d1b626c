"""The input of a stage that does not wait for the previous one: the data, and a prediction from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from dni.errors import OutOfOrder
from dni.interfaces.input import InputInterface
from workers.comm.edge import Loss
from workers.comm.frame import Frame, Kind
from workers.comm.upstream import Upstream
from workers.runtime.feed import Feed


class ForwardUnlocked:
    """Training steps from the stage's own feed, with predicted values; other frames from the edge, in their places.

    It has the methods of `Upstream`. The value that arrives over the edge for a step is the target of the prediction.
    The step is answered when it arrives, with the gradient at the predicted value. The previous stage uses it as the
    gradient of its output. A stage is at most `window` steps ahead of the frames that have arrived. Where the feed has
    a validation pass, a probe, a checkpoint or the end, it waits for the frame of the previous stage, so that all
    stages are at the same step.

    Args:
        edge: to the previous stage.
        feed: of the same data and schedule as the first stage's; it is never stopped.
        inputs: predicts the values.
        window: W, in steps.
        lag: before step t, learn from the value of step t - lag - 1 and from none after it; None takes the values that
            have arrived.
    """

    def __init__(self, edge: Upstream, feed: Feed, inputs: InputInterface, *, window: int, lag: int | None) -> None:
        self.edge, self.feed, self.inputs, self.lag = edge, feed, inputs, lag
        self._ahead = window if lag is None else lag + 1
        self._given = self._arrived = feed.start  # the newest step given to the stage; the newest that has arrived
        self._answers: dict[int, tuple[Tensor | None, Sequence[Loss]]] = {}  # of steps that have not arrived
        self._early: dict[int, Tensor] = {}  # values that arrived before their step
        self._figures: dict[str, Any] = {}

    def receive(self) -> Frame:
        """Return the next training step, or the previous stage's frame of another kind where the schedule has one.

        Raises as `Upstream.receive`, and OutOfOrder if the schedules of the two stages differ.
        """
        step = self._given + 1
        self._catch_up(step - self._ahead)  # first: a frame may announce the end of the run
        frame = self.feed.receive()
        if frame.kind is not Kind.STEP:
            self._catch_up(self._given)
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
        piggybacked: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> None:
        """As `Upstream.finish`; the answer to a training step is kept until its frame arrives."""
        if frame.kind is Kind.STEP:
            self._answers[frame.step] = gradient, losses
        else:
            self.edge.finish(frame, gradient, losses)

    def state_dict(self) -> dict[str, Any]:
        """Return the feed, the predictor and the values not learned from. At a checkpoint nothing is unanswered."""
        state = {"feed": self.feed.state_dict(), "inputs": self.inputs.state_dict(), "early": self._early}
        return {**state, "figures": self._figures}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.feed.load_state_dict(state["feed"])
        self.inputs.load_state_dict(state["inputs"])
        self._early, self._figures = dict(state["early"]), state.get("figures", {})

    def figures(self) -> dict[str, Any]:
        """Return how well inputs were predicted since the last call, or before it if nothing was learned since."""
        recent = self.inputs.take_recent()
        if any(figure is not None for figure in recent.values()) or not self._figures:
            self._figures = recent
        return self._figures

    @property
    def sent_bytes(self) -> int:
        """Bytes of all tensors sent to the previous stage."""
        return self.edge.sent_bytes

    def pending(self) -> int:
        """Return the number of frames received and not yet taken."""
        return self.edge.pending()

    def _catch_up(self, needed: int) -> None:
        """Take the values of steps given to the stage: wait for those up to `needed`, then take those that are here."""
        while self._arrived < self._given:
            frame = self.edge.receive() if self._arrived < needed else self.edge.poll()
            if frame is None:
                return
            self._take(self._expected(frame, Kind.STEP, self._arrived + 1))

    def _take(self, frame: Frame) -> None:
        self._arrived = frame.step
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
