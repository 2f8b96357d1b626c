"""The schedule of a run: training windows, validations, checkpoint marks and the end, each in its place."""

from __future__ import annotations

from threading import Event
from typing import Any

import pytest
import torch

from dni.data.text import Corpus, load_text
from dni.errors import DataError
from tests.runs import tiny
from workers.feed import Feed
from workers.frame import Frame, Kind
from workers.sources import text_data

#: 4 lanes of 25 characters: 4 windows of 6 in training; 4 lanes of 13: 2 windows in validation.
CORPUS = Corpus("ab", ("a", "b"), "0" * 64, torch.arange(100) % 2, torch.arange(52) % 2)
LETTERS = {Kind.STEP: "S", Kind.EVALUATE: "V", Kind.MARK: "M", Kind.END: "E"}


def feed(*, start: int = 0, stop: Event | None = None, corpus: Corpus = CORPUS, **changes: Any) -> Feed:
    config = tiny(**{"steps": 6, "data": {"sequence": None}, **changes})
    return Feed(config, text_data(corpus, config), start=start, stop=stop or Event())


def frames(source: Feed) -> list[Frame]:
    found = [source.receive()]
    while found[-1].kind is not Kind.END:
        found.append(source.receive())
    return found


def schedule(source: Feed) -> str:
    """A letter and a step for every frame."""
    return " ".join(f"{LETTERS[frame.kind]}{frame.step}" for frame in frames(source))


def test_validations_and_marks_stand_after_their_step() -> None:
    source = feed(evaluate={"every": 2, "windows": None}, checkpoint={"every": 3})
    assert schedule(source) == "S1 S2 V2 V2 S3 M3 S4 V4 V4 S5 S6 V6 V6 M6 E6"


def test_a_mark_comes_after_the_validation_of_the_same_step() -> None:
    source = feed(steps=4, evaluate={"every": 2, "windows": 1}, checkpoint={"every": 2})
    assert schedule(source) == "S1 S2 V2 M2 S3 S4 V4 M4 E4"


def test_without_a_number_there_is_one_validation_and_one_mark_at_the_end() -> None:
    source = feed(steps=3, evaluate={"every": None, "windows": 5}, checkpoint={"every": None})
    assert schedule(source) == "S1 S2 S3 V3 V3 M3 E3"


@pytest.mark.parametrize("start", range(6))
def test_a_resumed_schedule_is_the_rest_of_the_whole_one(start: int) -> None:
    def source(start: int) -> Feed:
        found = feed(start=start, evaluate={"every": 2, "windows": 1}, checkpoint={"every": 3})
        found.load_state_dict({"train": {"window": start}, "lane_steps": 6 * start})
        return found

    whole = frames(source(0))
    rest = [f for f in whole if f.step > start]
    again = frames(source(start))
    assert [(f.kind, f.step) for f in again] == [(f.kind, f.step) for f in rest]
    for a, b in zip(again, rest, strict=True):
        assert a.tensors.keys() == b.tensors.keys()
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_every_step_has_the_window_of_its_number_and_the_text_begins_anew() -> None:
    first, *_, fifth, sixth = (f for f in frames(feed()) if f.kind is Kind.STEP)
    lane = [n % 2 for n in range(25)]
    assert first.tensors["value"][0].tolist() == lane[0:6]
    assert first.tensors["labels"][0].tolist() == lane[1:7]
    assert first.tensors["value"][1].tolist() == [1 - n for n in lane[0:6]]  # a lane has 25 characters
    assert first.tensors["reset"].tolist() == [True] * 4
    assert torch.equal(fifth.tensors["value"], first.tensors["value"])  # a pass is 4 windows
    assert fifth.tensors["reset"].all()
    assert not sixth.tensors["reset"].any()


def test_a_run_that_is_stopped_saves_and_ends_after_the_step_under_way() -> None:
    stop = Event()
    source = feed(stop=stop, evaluate={"every": 2, "windows": 2})
    assert [source.receive().step for _ in range(3)] == [1, 2, 2]
    stop.set()
    assert schedule(source) == "V2 M2 E2"  # the validation pass under way is finished, or its mean would be wrong


def test_with_patience_every_validation_is_saved() -> None:
    source = feed(evaluate={"every": 2, "windows": 1, "patience": 9}, checkpoint={"every": 3})
    assert schedule(source) == "S1 S2 V2 M2 S3 M3 S4 V4 M4 S5 S6 V6 M6 E6"


def test_a_run_that_is_stopped_once_it_has_saved_does_not_save_again() -> None:
    stop = Event()
    source = feed(stop=stop, checkpoint={"every": 2})
    assert [source.receive().kind for _ in range(3)] == [Kind.STEP, Kind.STEP, Kind.MARK]
    stop.set()
    assert schedule(source) == "E2"


def test_a_run_that_is_stopped_before_it_began_saves_what_it_started_from() -> None:
    stop = Event()
    stop.set()
    assert schedule(feed(stop=stop, start=4)) == "M4 E4"


def test_a_text_without_room_for_validation_is_refused() -> None:
    corpus = Corpus("short", ("a", "b"), "0" * 64, torch.arange(100) % 2, torch.arange(27) % 2)
    with pytest.raises(DataError, match="4 lanes of 6 characters and one label need 28 characters, it has 27"):
        feed(corpus=corpus)


def test_the_text_that_comes_with_python_is_enough_for_the_default_settings() -> None:
    corpus = load_text()
    config = tiny(data={"batch": 32, "window": 32, "sequence": 256})
    source = Feed(config, text_data(corpus, config), start=0, stop=Event())
    assert source.receive().tensors["value"].shape == (32, 32)
