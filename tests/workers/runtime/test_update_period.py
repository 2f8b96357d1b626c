"""The steps at which a stage works: which frames it handles, and what it sends on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workers.comm.frame import Frame, Kind
from workers.runtime.update_period import UpdatePeriod

NO, YES = torch.tensor([False, False]), torch.tensor([True, False])


def frame(kind: Kind, number: int, reset: Tensor = NO) -> Frame:
    tensors = {"value": torch.zeros(1), "labels": torch.zeros(1), "reset": reset, "done": NO}
    if kind is Kind.EVALUATE:
        return Frame(kind, 77, tensors={**tensors, "index": torch.tensor(number)})
    return Frame(kind, number, tensors=tensors)


@pytest.mark.parametrize("kind", [Kind.STEP, Kind.EVALUATE])
def test_the_schedule_of_three_stages(kind: Kind) -> None:
    """Training goes by steps, validation by the number of the window in its pass."""
    periods = [UpdatePeriod.of([1, 2, 6], index) for index in range(3)]
    worked = [[n for n in range(1, 13) if period.works(frame(kind, n))] for period in periods]
    assert worked == [[*range(1, 13)], [2, 4, 6, 8, 10, 12], [6, 12]]
    sent = [[n for n in range(1, 13) if "value" in period.passed(frame(kind, n), None)] for period in periods]
    assert sent == [[2, 4, 6, 8, 10, 12], [6, 12], [*range(1, 13)]]
    assert [periods[1].count(step) for step in (2, 4, 6)] == [1, 2, 3]


def test_with_a_period_of_one_all_of_a_frame_goes_on_with_the_output() -> None:
    period, came = UpdatePeriod.of([1, 1], 1), frame(Kind.STEP, 3)
    assert period.works(came)
    assert period.passed(came, NO) == {**came.tensors, "value": NO}


def test_marks_and_the_end_reach_every_stage_at_any_step() -> None:
    period = UpdatePeriod(5, 10)
    assert all(period.works(Frame(kind, 3)) for kind in (Kind.CHECKPOINT, Kind.END))
    assert period.passed(Frame(Kind.CHECKPOINT, 3), None) == {}


def test_a_reset_between_two_steps_of_a_stage_comes_with_the_next_and_is_saved() -> None:
    """Of stream 0 at step 4, of stream 1 at step 5; a validation pass between them has resets of its own."""
    period = UpdatePeriod(3)
    assert not period.works(frame(Kind.STEP, 4, YES))
    assert not period.works(frame(Kind.EVALUATE, 1))
    assert not period.works(frame(Kind.STEP, 5, ~YES))
    again = UpdatePeriod(3)
    again.load_state_dict(period.state_dict())
    for one in (period, again):
        sixth, ninth = frame(Kind.STEP, 6), frame(Kind.STEP, 9)
        assert one.works(sixth)
        assert sixth.tensors["reset"].tolist() == [True, True]
        assert one.works(ninth)
        assert ninth.tensors["reset"].tolist() == [False, False]
