"""The steps at which a stage works, and those at which the next one does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dni.named_tensors import Value
from workers.comm.frame import Frame, Kind
from workers.comm.roles import VALUE, frame_tensors, without

#: Tensors of a frame that the next stage only acknowledges.
_BETWEEN = ("reset", "done", "index")


@dataclass
class UpdatePeriod:
    """A stage works at the training steps, and at the windows of a validation pass, that are multiples of `every`.

    At the others it only passes the frame on and acknowledges it. A sequence that begins between two of its steps
    begins at the next one.
    """

    every: int = 1
    following: int = 1  #: period of the next stage, a multiple of `every`
    resets: dict[Kind, Tensor] = field(
        default_factory=dict
    )  #: (B,) bool, since this stage worked last, by kind of frame

    @staticmethod
    def of(periods: Sequence[int], index: int) -> UpdatePeriod:
        """Return that of stage `index`, from the periods of all stages."""
        every, following, *_ = [*periods[index:], 1]
        return UpdatePeriod(every, following)

    def works(self, frame: Frame) -> bool:
        """Return whether the stage works at this frame; if so, add the earlier resets to it. Call once per frame."""
        if self.every == 1 or frame.kind not in (Kind.STEP, Kind.EVALUATE):
            return True
        reset, earlier = frame.tensors["reset"], self.resets.pop(frame.kind, None)
        if earlier is not None and earlier.shape == reset.shape:  # a pass may end with a smaller batch
            reset = reset | earlier
        if _number(frame) % self.every:
            self.resets[frame.kind] = reset
            return False
        frame.tensors["reset"] = reset
        return True

    def passed(self, frame: Frame, output: Value | None) -> dict[str, Tensor]:
        """Return the tensors for the next stage, with output and labels only if that stage works at this frame."""
        windows = frame.kind in (Kind.STEP, Kind.EVALUATE)
        if windows and self.following > 1 and _number(frame) % self.following:
            return {name: frame.tensors[name] for name in _BETWEEN if name in frame.tensors}
        if output is None:
            return dict(frame.tensors)
        return {**without(VALUE, frame.tensors), **frame_tensors(VALUE, output)}

    def count(self, step: int) -> int:
        """Return the number of steps at which the stage has worked, up to and including this one."""
        return step // self.every

    def state_dict(self) -> dict[str, Any]:
        """Return the resets of training. No validation pass is under way at a checkpoint barrier."""
        return {"resets": self.resets.get(Kind.STEP)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.resets = {} if state["resets"] is None else {Kind.STEP: state["resets"]}


def _number(frame: Frame) -> int:
    """Return the number of a training step, or of a window in its validation pass, from 1."""
    return frame.step if frame.kind is Kind.STEP else int(frame.tensors["index"])
