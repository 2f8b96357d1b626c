"""The order of frames in a run: training windows, validations, probes, checkpoints and the end."""

from __future__ import annotations

import math
from threading import Event
from typing import Any

import pytest
import torch

from dni.data import Data, Text
from dni.data.text import Corpus, load_text
from dni.errors import DataError
from dni.types import IGNORED
from tests.support.runs import tiny
from workers.build.data import context_of, open_data
from workers.comm.frame import Frame, Kind
from workers.config.settings import Config
from workers.runtime.feed import Feed
from workers.tracking.early_stopping import Stop

#: 4 streams of 25 characters: 4 windows of 6 in training; 4 streams of 13: 2 windows in validation.
CORPUS = Corpus("ab", ("a", "b"), "0" * 64, torch.arange(100) % 2, torch.arange(52) % 2)
LETTERS = {Kind.STEP: "S", Kind.EVALUATE: "V", Kind.PROBE: "P", Kind.CHECKPOINT: "M", Kind.END: "E"}


def feed(*, start: int = 0, stop: Event | None = None, corpus: Corpus = CORPUS, **changes: Any) -> Feed:
    config = tiny(**{"steps": 6, "data": {"sequence": None}, **changes})
    return Feed(config, text_data(corpus, config), start=start, stop=stop or Event())


def text_data(corpus: Corpus, config: Config) -> Data:
    assert isinstance(config.data, Text)
    return config.data.of(corpus, context_of(config))


def frames(source: Feed) -> list[Frame]:
    found = [source.receive()]
    while found[-1].kind is not Kind.END:
        found.append(source.receive())
    return found


def schedule(source: Feed) -> str:
    """Return a letter and a step for every frame."""
    return " ".join(f"{LETTERS[frame.kind]}{frame.step}" for frame in frames(source))


def test_validations_and_checkpoints_follow_their_step() -> None:
    source = feed(evaluate={"every": 2, "windows": None}, checkpoint={"every": 3})
    assert schedule(source) == "S1 S2 V2 V2 S3 M3 S4 V4 V4 S5 S6 V6 V6 M6 E6"


def test_a_checkpoint_follows_the_validation_of_the_same_step() -> None:
    source = feed(steps=4, evaluate={"every": 2, "windows": 1}, checkpoint={"every": 2})
    assert schedule(source) == "S1 S2 V2 M2 S3 S4 V4 M4 E4"


def test_a_probe_is_between_validation_and_checkpoint_of_the_same_step() -> None:
    source = feed(evaluate={"every": 4, "windows": 1, "probe": 2}, checkpoint={"every": 2})
    assert schedule(source) == "S1 S2 P2 M2 S3 S4 V4 P4 M4 S5 S6 V6 P6 M6 E6"


def probed(config: Config, data: Data) -> Frame:
    """Return the first probe."""
    source = Feed(config, data, start=0, stop=Event())
    frame = source.receive()
    while frame.kind is not Kind.PROBE:
        frame = source.receive()
    return frame


@pytest.mark.parametrize(("sequence", "most", "windows"), [(18, 8, 3), (18, 2, 2), (None, 3, 3)])
def test_a_probe_is_a_sequence_of_the_validation_text_or_its_first_windows(
    sequence: int | None, most: int, windows: int
) -> None:
    config = tiny(
        data={"sequence": sequence}, time={"method": "synthetic"}, predictor={"time": {"future_labels": 2}},
        evaluate={"every": None, "probe": 1, "probe_windows": most},
    )  # fmt: skip
    corpus = Corpus("ab", ("a", "b"), "0" * 64, torch.arange(200) % 2, torch.arange(160) % 2)
    frame = probed(config, text_data(corpus, config))
    steps = 6 * windows
    stream = [n % 2 for n in range(40)]
    assert frame.tensors["windows"].tolist() == [6] * windows
    assert frame.tensors["value"][0].tolist() == stream[:steps]
    assert frame.tensors["labels"][0].tolist() == stream[1 : steps + 1]
    future = [[IGNORED] * 2 if end == sequence else stream[end + 1 : end + 3] for end in range(6, steps + 1, 6)]
    assert frame.tensors["context"][:, 0].tolist() == future


def test_a_probe_has_the_input_history_at_the_end_of_each_window() -> None:
    config = tiny(
        data={"kind": "copy", "batch": 2, "window": 3, "length": 7}, time={"method": "synthetic"},
        predictor={"time": {"kind": "soft_label_critic", "history": 4}}, evaluate={"probe": 1, "probe_windows": 3},
    )  # fmt: skip
    frame = probed(config, open_data(config))
    read = frame.tensors["value"][0].tolist()
    assert frame.tensors["context"][:, 0].tolist() == [[IGNORED, *read[:3]], read[2:6], read[5:9]]


def copying(**data: Any) -> tuple[Config, Data]:
    config = tiny(
        data={"kind": "copy", "batch": 2, "window": 3, **data}, evaluate={"probe": 1, "probe_windows": 3}, steps=9
    )
    return config, open_data(config)


@pytest.mark.parametrize(("solved", "length"), [(0, 5), (1, 7), (2, 9), (3, 9), (30, 9)])
def test_a_curriculum_is_probed_at_its_length_up_to_the_probes_size(solved: int, length: int) -> None:
    config, data = copying()
    data.train.load_state_dict(data.train.state_dict() | {"solved": solved})
    before = data.train.state_dict()
    first, again = (data.probe().next() for _ in range(2))
    assert data.train.state_dict() == before
    assert torch.equal(first.inputs, again.inputs)  # probes at one level use the same sequences
    frame = probed(config, data)
    assert frame.tensors["windows"].tolist() == [3] * math.ceil(length / 3)
    labels = frame.tensors["labels"][0].tolist()
    assert (labels.index(2) + 1, sum(label != IGNORED for label in labels)) == (length, (length - 1) // 2)


def test_a_fixed_length_is_probed_with_a_validation_sequence() -> None:
    config, data = copying(length=9)
    sequence = data.valid()
    assert torch.equal(
        probed(config, data).tensors["value"], torch.cat([sequence.next().inputs for _ in range(3)], dim=1)
    )


def test_null_means_one_validation_and_one_checkpoint_at_the_end() -> None:
    source = feed(steps=3, evaluate={"every": None, "windows": 5}, checkpoint={"every": None})
    assert schedule(source) == "S1 S2 S3 V3 V3 M3 E3"


@pytest.mark.parametrize("start", range(6))
def test_a_resumed_feed_continues_the_whole_one(start: int) -> None:
    def source(start: int) -> Feed:
        found = feed(start=start, evaluate={"every": 2, "windows": 1}, checkpoint={"every": 3})
        found.load_state_dict({"train": {"window": start}, "timesteps": 6 * start, "history": None})
        return found

    whole = frames(source(0))
    rest = [f for f in whole if f.step > start]
    again = frames(source(start))
    assert [(f.kind, f.step) for f in again] == [(f.kind, f.step) for f in rest]
    for a, b in zip(again, rest, strict=True):
        assert a.tensors.keys() == b.tensors.keys()
        assert all(torch.equal(a.tensors[name], b.tensors[name]) for name in a.tensors)


def test_step_n_has_window_n_and_the_text_wraps_around() -> None:
    first, *_, fifth, sixth = (f for f in frames(feed()) if f.kind is Kind.STEP)
    stream = [n % 2 for n in range(25)]
    assert first.tensors["value"][0].tolist() == stream[0:6]
    assert first.tensors["labels"][0].tolist() == stream[1:7]
    assert first.tensors["value"][1].tolist() == [1 - n for n in stream[0:6]]  # a stream has 25 characters
    assert first.tensors["reset"].tolist() == [True] * 4
    assert torch.equal(fifth.tensors["value"], first.tensors["value"])  # a pass is 4 windows
    assert fifth.tensors["reset"].all()
    assert not sixth.tensors["reset"].any()


def test_a_stopped_run_saves_and_ends_after_the_current_step() -> None:
    stop = Event()
    source = feed(stop=stop, evaluate={"every": 2, "windows": 2})
    assert [source.receive().step for _ in range(3)] == [1, 2, 2]
    stop.set()
    assert schedule(source) == "V2 M2 E2"  # it completes the validation pass, or the mean would be wrong


@pytest.mark.parametrize(("reason", "rest"), [("interrupted", "M2 E2"), ("patience", "V2 M2 E2")])
def test_an_interrupt_breaks_off_a_validation_pass(reason: str, rest: str) -> None:
    """A run out of patience completes it."""
    stop, broken = Stop(), list[int]()
    source = feed(stop=stop, evaluate={"every": 2, "windows": 2})
    source.broken_off = broken.append
    assert [source.receive().step for _ in range(3)] == [1, 2, 2]
    stop.because(reason)
    assert schedule(source) == rest
    assert broken == ([2] if reason == "interrupted" else [])


def test_with_patience_every_validation_is_saved() -> None:
    source = feed(evaluate={"every": 2, "windows": 1, "patience": 9}, checkpoint={"every": 3})
    assert schedule(source) == "S1 S2 V2 M2 S3 M3 S4 V4 M4 S5 S6 V6 M6 E6"


def test_a_run_stopped_after_a_checkpoint_does_not_save_again() -> None:
    stop = Event()
    source = feed(stop=stop, checkpoint={"every": 2})
    assert [source.receive().kind for _ in range(3)] == [Kind.STEP, Kind.STEP, Kind.CHECKPOINT]
    stop.set()
    assert schedule(source) == "E2"


def test_a_run_stopped_before_its_first_step_saves_its_start() -> None:
    stop = Event()
    stop.set()
    assert schedule(feed(stop=stop, start=4)) == "M4 E4"


def test_a_text_without_room_for_validation_is_refused() -> None:
    corpus = Corpus("short", ("a", "b"), "0" * 64, torch.arange(100) % 2, torch.arange(27) % 2)
    with pytest.raises(DataError, match="4 streams of 6 characters and one label need 28 characters, it has 27"):
        feed(corpus=corpus)


def test_the_built_in_text_suffices_for_the_default_settings() -> None:
    corpus = load_text()
    config = tiny(data={"batch": 32, "window": 32, "sequence": 256})
    source = Feed(config, text_data(corpus, config), start=0, stop=Event())
    assert source.receive().tensors["value"].shape == (32, 32)
