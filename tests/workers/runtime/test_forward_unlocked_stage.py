"""Forward unlocking in one worker: it runs ahead of received activations, with gradients at predicted inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch

from dni.errors import OutOfOrder
from tests.support.runs import tiny
from workers.build.data import resolve
from workers.build.interfaces import depth_interface
from workers.build.stage import build_stage
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.config.settings import Config
from workers.runtime.assembly import assemble
from workers.runtime.job import Job

Log = list[tuple[str, Kind, int]]


class Withholding(ChannelEnd):
    """The previous stage: a frame arrives only when the worker waits for it."""

    def __init__(self, frames: Iterable[Frame], log: Log) -> None:
        self.frames, self.log, self.answers = deque(frames), log, []  # type: ignore[var-annotated]

    def send(self, frame: Frame) -> None:
        self.answers.append(frame)

    def receive(self, timeout: float | None) -> Frame:
        frame = self.frames.popleft()
        self.log.append(("waited for", frame.kind, frame.step))
        return frame

    def poll(self) -> Frame | None:
        return None

    def pending(self) -> int:
        return 0

    def close(self) -> None:
        pass


class Acknowledging(Withholding):
    """The next stage: it acknowledges every frame at once, without a gradient."""

    def send(self, frame: Frame) -> None:
        self.log.append(("sent", frame.kind, frame.step))
        self.frames.append(Frame(Kind.DONE, frame.step, done_through=frame.sequence))

    def receive(self, timeout: float | None) -> Frame:
        return self.frames.popleft()

    def poll(self) -> Frame | None:
        return self.frames.popleft() if self.frames else None


def scripted(**depth: Any) -> Config:
    unlocked = {"method": "synthetic_inputs", "max_in_flight": 3, **depth}
    config = tiny(stages=3, steps=5, depth=unlocked, evaluate={"every": None, "windows": 1})
    return resolve(config)[0]


def frames(config: Config, *others: tuple[Kind, int]) -> list[Frame]:
    """Return the frames of stage 0: five training steps, and frames of other kinds."""
    shape = (config.data.batch, config.data.window)
    torch.manual_seed(1)
    no = torch.zeros(4, dtype=torch.bool)
    tensors = {"labels": torch.zeros(shape, dtype=torch.long), "reset": no, "done": no}
    order = [*((Kind.STEP, step) for step in range(1, 6)), *others]

    def window(kind: Kind) -> dict[str, torch.Tensor]:
        value = torch.randn(*shape, config.model.units)
        return {"value": value, **tensors} if kind in (Kind.STEP, Kind.EVALUATE) else {}

    return [
        Frame(kind, step, sequence, stage=0, tensors=window(kind)) for sequence, (kind, step) in enumerate(order, 1)
    ]


ENDS = (Kind.EVALUATE, 5), (Kind.CHECKPOINT, 5), (Kind.END, 5)


@pytest.mark.parametrize(("lag", "ahead"), [(None, 3), (0, 1), (1, 2)])
def test_a_stage_runs_ahead_up_to_its_limit(lag: int | None, ahead: int, tmp_path: Path) -> None:
    config, log = scripted(lag=lag), list[tuple[str, Kind, int]]()
    before, after = Withholding(frames(config, *ENDS), log), Acknowledging([], log)
    assemble(Job(config, tmp_path, lambda record: None, Event()), 1, before, after).run()
    expected: Log = []
    for step in range(1, 6):
        if step > ahead:
            expected.append(("waited for", Kind.STEP, step - ahead))
        expected.append(("sent", Kind.STEP, step))
    expected += [("waited for", Kind.STEP, step) for step in range(6 - ahead, 6)]
    expected += [(what, kind, 5) for kind, _ in ENDS for what in ("waited for", "sent")]
    assert log == expected
    answers = [(answer.kind, answer.step, answer.done_through) for answer in before.answers]
    steps = [(Kind.GRADIENT, step, step) for step in range(1, 6)]
    assert answers == [*steps, *((Kind.DONE, 5, sequence) for sequence in (6, 7, 8))]


def test_the_returned_gradient_is_that_at_the_predicted_input(tmp_path: Path) -> None:
    """The first prediction is zero. The expected gradient comes from a stage built separately."""
    config, log = scripted(), list[tuple[str, Kind, int]]()
    before, after = Withholding(frames(config, *ENDS), log), Acknowledging([], log)
    assemble(Job(config, tmp_path, lambda record: None, Event()), 1, before, after).run()
    stage = build_stage(config, 1)
    window = resolve(config)[1].train.next()
    value = torch.zeros(4, 6, config.model.units, requires_grad=True)
    output, _ = stage.module(value, stage.module.initial_state(4))
    gradient = depth_interface(config, 1, stage).predict(output.detach(), window.labels)
    output.backward(gradient)
    assert value.grad is not None
    assert value.grad.any()
    torch.testing.assert_close(before.answers[0].tensors["gradient"], value.grad)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            [(Kind.CHECKPOINT, 5)],
            "CHECKPOINT of step 5 came where EVALUATE of step 5 was due: do all stages read the same data?",
        ),
        ([(Kind.STEP, 6)], "STEP of step 6 came where EVALUATE of step 5 was due"),
    ],
)
def test_frames_out_of_order_are_refused(others: list[tuple[Kind, int]], message: str, tmp_path: Path) -> None:
    config = scripted()
    before, after = Withholding(frames(config, *others), []), Acknowledging([], [])
    worker = assemble(Job(config, tmp_path, lambda record: None, Event()), 1, before, after)
    with pytest.raises(OutOfOrder, match=message):
        worker.run()
