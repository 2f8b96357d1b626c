"""The interface to the training loop of what rides along with its frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workers.comm.edge import Target
from workers.comm.frame import Frame

Tensors = dict[str, Tensor]


class Piggyback:
    """Tensors of one feature that ride along with frames and replies. Each stage has one; a subclass overrides.

    The calls of one training step, in order: `received`, `onward`, `returned` for what has come back, `before_update`
    after a backward pass, `reply`. With `follows_update`, the reply to a step is sent after its update.
    """

    name = ""

    follows_update = False

    def received(self, frame: Frame) -> None:
        """Take this feature's tensors out of a frame from the previous stage, before the frame is handled."""

    def onward(self) -> Tensors:
        """Return the tensors that ride to the next stage with a frame of any kind."""
        return {}

    def returned(self, target: Target) -> None:
        """Take what came back from the next stage with a reply."""

    def before_update(self, step: int, window: int, *, move: bool) -> None:
        """Change parameter gradients, at step `step`, after the backward pass of window `window`.

        `move`: whether the update uses them.
        """

    def reply(self) -> Tensors:
        """Return the tensors that ride to the previous stage with the reply to a training step."""
        return {}

    def figures(self) -> dict[str, Any]:
        """Return figures of the whole run, for the summary."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class Piggybacks(Piggyback):
    """Those of all features of a run, in order."""

    def __init__(self, parts: Sequence[Piggyback] = ()) -> None:
        self.parts = parts
        self.follows_update = any(part.follows_update for part in parts)

    def received(self, frame: Frame) -> None:
        for part in self.parts:
            part.received(frame)

    def onward(self) -> Tensors:
        return {name: tensor for part in self.parts for name, tensor in part.onward().items()}

    def returned(self, target: Target) -> None:
        if target.piggybacked:
            for part in self.parts:
                part.returned(target)

    def before_update(self, step: int, window: int, *, move: bool) -> None:
        for part in self.parts:
            part.before_update(step, window, move=move)

    def reply(self) -> Tensors:
        return {name: tensor for part in self.parts for name, tensor in part.reply().items()}

    def figures(self) -> dict[str, Any]:
        return {name: figure for part in self.parts for name, figure in part.figures().items()}

    def state_dict(self) -> dict[str, Any]:
        return {part.name: part.state_dict() for part in self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self.parts:
            if part.name in state:
                part.load_state_dict(state[part.name])
