"""The training loop on faulty edges: late, bundled, repeated and lost targets; and evaluation beside it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from dni.interfaces.synthetic import DecoupledInterface
from tests.support.faulty import Fault, FaultyEnd
from tests.support.runs import assert_same, parameters_of, tiny
from workers.build.data import resolve
from workers.comm.downstream import Downstream
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.local import local_channel
from workers.config.settings import Config
from workers.launch.launcher import launch
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.worker import Worker

STEPS = 12


class Watched(FaultyEnd):
    """A faulty end that records the frames that the loop sends."""

    def __init__(self, end: ChannelEnd, faults: Sequence[Fault] = ()) -> None:
        super().__init__(end, faults)
        self.sent: list[tuple[Kind, int]] = []
        self.values: list[tuple[Kind, int]] = []  # frames with a value

    def send(self, frame: Frame) -> None:
        self.sent.append((frame.kind, frame.step))
        if "value" in frame.tensors:
            self.values.append((frame.kind, frame.step))
        super().send(frame)


class Line:
    """Stages in threads, three by default; faults affect the frames that later stages send back."""

    def __init__(self, run_dir: Path, faults: Sequence[Fault] = (), lag: int | None = None, **changes: Any) -> None:
        depth = {"method": "synthetic", "max_in_flight": 4, "lag": lag}
        last = {"every": None, "windows": 1}  # one validation, at the end
        config, data = resolve(tiny(**{"stages": 3, "steps": STEPS, "depth": depth, "evaluate": last, **changes}))
        self.records: list[dict[str, Any]] = []
        job = Job(config, run_dir, self.records.append, Event(), data)
        edges = [local_channel(64) for _ in range(config.stages - 1)]
        self.downward = [Watched(a) for a, _ in edges]
        self.upward = [Watched(b, faults) for _, b in edges]
        ends = zip([None, *self.upward], [*self.downward, None], strict=True)
        self.workers = [assemble(job, k, above, below) for k, (above, below) in enumerate(ends)]
        self.errors: list[BaseException] = []

    def run(self) -> None:
        """Run all stages to their end, within 20 seconds. Raises the first error."""
        threads = [threading.Thread(target=self._work, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in threads)
        for end in (*self.downward, *self.upward):
            end.close()
        if self.errors:
            raise self.errors[0]

    def _work(self, worker: Worker) -> None:
        try:
            worker.run()
        except BaseException as error:
            self.errors.append(error)
            for end in (*self.downward, *self.upward):
                end.close()

    def updates(self) -> list[int]:
        """Return the number of predictor updates of the first two stages."""
        return [w.depth.updates for w in self.workers[:2] if isinstance(w.depth, DecoupledInterface)]

    def in_flight(self) -> list[int]:
        """Return the frames in flight after the first two stages, by their own count."""
        return [w.downstream.in_flight for w in self.workers[:2] if isinstance(w.downstream, Downstream)]


def late(step: int, sends: int) -> Fault:
    return Fault(Kind.GRADIENT, step, "delay", sends)


def lost(step: int) -> Fault:
    return Fault(Kind.GRADIENT, step, "drop")


def twice(step: int) -> Fault:
    return Fault(Kind.GRADIENT, step, "duplicate")


#: Faults, and the number of targets of the first ten and of all twelve steps that never arrive.
FAULTS = [
    pytest.param([], 0, 0, id="none"),
    pytest.param([late(3, 1), late(7, 2)], 0, 0, id="late"),
    pytest.param([late(3, 2), late(4, 1)], 0, 0, id="bundled"),
    pytest.param([twice(1), twice(2), twice(STEPS)], 0, 0, id="repeated"),
    pytest.param([lost(2), lost(6), lost(7)], 3, 3, id="lost"),
    pytest.param([lost(STEPS)], 0, 1, id="last-lost"),
    pytest.param([late(STEPS, 100)], 0, 1, id="after-the-end"),
]


@pytest.mark.parametrize(("faults", "missing", "of_all"), FAULTS)
def test_a_run_with_a_lag_ends_despite_faults(faults: list[Fault], missing: int, of_all: int, tmp_path: Path) -> None:
    """The targets of the last two steps arrive, but would be used two steps after the end."""
    line = Line(tmp_path, faults, lag=2)
    line.run()
    assert line.updates() == [STEPS - 2 - missing] * 2
    assert line.in_flight() == [0, 0]
    assert [r["step"] for r in line.records if r["kind"] == "end"] == [STEPS] * 3


@pytest.mark.parametrize(("faults", "of_ten", "missing"), FAULTS)
def test_a_run_without_a_lag_uses_every_target_that_arrives(
    faults: list[Fault], of_ten: int, missing: int, tmp_path: Path
) -> None:
    """A late target whose value was dropped counts as lost."""
    line = Line(tmp_path, faults)
    line.run()
    late_ones = len([f for f in faults if f.action == "delay" and f.sends < STEPS])
    for updates in line.updates():
        assert STEPS - missing - late_ones <= updates <= STEPS - missing
    assert line.in_flight() == [0, 0]


def test_a_target_whose_value_was_dropped_is_not_used(tmp_path: Path) -> None:
    """Targets 3 to 5 arrive after the frame of step 6, which acknowledges them: no stage waits up to step 10.

    At step 9 the values of steps 3 to 9 are pending: seven, one more than the memory holds, so that of step 3 is
    dropped. The targets of the last three of the twelve steps are too new at the end.
    """
    line = Line(tmp_path, [late(3, 3), late(4, 2), late(5, 1)], lag=3)
    line.run()
    assert line.updates() == [STEPS - 3 - 1] * 2
    assert line.in_flight() == [0, 0]


def test_a_probe_waits_for_frames_in_flight_and_takes_no_target(tmp_path: Path) -> None:
    """The target of step 4 arrives after the reply to the probe of step 5."""
    line = Line(tmp_path, [late(4, 2)], lag=2, evaluate={"every": None, "windows": 1, "probe": 5})
    line.run()
    assert line.updates() == [STEPS - 2] * 2
    assert line.in_flight() == [0, 0]
    for below, above in zip(line.downward, line.upward, strict=True):
        assert [step for kind, step in below.sent if kind is Kind.PROBE] == [5, 10]
        assert above.sent.count((Kind.GRADIENT, 5)) == above.sent.count((Kind.GRADIENT, 10)) == 2
    probed = [(r["step"], r["stage"]) for r in line.records if r["kind"] == "probe"]
    assert sorted(probed) == [(step, stage) for step in (5, 10) for stage in range(3)]


def test_locked_training_replies_to_every_frame_with_its_gradient(tmp_path: Path) -> None:
    line = Line(tmp_path, depth={"method": "backprop", "max_in_flight": 1}, evaluate={"every": 6, "windows": 1})
    line.run()
    steps = [(Kind.STEP, n) for n in range(1, STEPS + 1)]
    steps.insert(6, (Kind.EVALUATE, 6))
    expected = [*steps, (Kind.EVALUATE, STEPS), (Kind.CHECKPOINT, STEPS), (Kind.END, STEPS)]
    assert [end.sent for end in line.downward] == [expected] * 2
    answers = [(Kind.GRADIENT if kind is Kind.STEP else Kind.DONE, step) for kind, step in expected]
    assert [end.sent for end in line.upward] == [answers] * 2


@pytest.mark.parametrize("lag", [None, 2])
def test_nothing_is_sent_after_the_end(lag: int | None, tmp_path: Path) -> None:
    line = Line(tmp_path, lag=lag)
    line.run()
    for end in line.downward:
        assert [kind for kind, _ in end.sent].index(Kind.END) == len(end.sent) - 1
    for end in line.upward:
        assert end.sent[-1] == (Kind.DONE, STEPS)
        assert len(end.sent) == len(line.downward[0].sent)


def test_a_stage_that_fails_wakes_the_others(tmp_path: Path) -> None:
    line = Line(tmp_path)

    def fails(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError("stage 1 had an accident")

    line.workers[1].stage.update = fails  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError, match="accident"):
        line.run()
    assert len(line.errors) == 3


def run(config: Config, folder: Path) -> Path:
    launch(config, folder)
    return folder


@pytest.mark.parametrize("model", ["lstm", "mlp"])
def test_evaluation_does_not_change_training(model: str, tmp_path: Path) -> None:
    def config(**evaluate: Any) -> Config:
        return tiny(
            stages=3, model={"kind": model}, depth={"lag": 2}, evaluate=evaluate,
            time={"method": "synthetic" if model == "lstm" else "truncated"},
            predictor={"time": {"hidden": 8, "future_labels": 3}},
        )  # fmt: skip

    often = run(config(every=2, windows=7), tmp_path / "often")
    once = run(config(every=None, windows=1), tmp_path / "once")
    assert_same(parameters_of(often, 3), parameters_of(once, 3))
