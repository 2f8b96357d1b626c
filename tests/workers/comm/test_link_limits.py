"""The links that the settings describe."""

from __future__ import annotations

from pathlib import Path
from threading import Event

from tests.support.runs import tiny
from workers.comm.frame import Frame, Kind
from workers.runtime.job import Job
from workers.runtime.links import edge_in_process


def test_all_corrections_of_all_frames_in_flight_may_wait(tmp_path: Path) -> None:
    depth = {"method": "corrected", "max_in_flight": 24, "correction_lambda": 1.0, "orders": 3}
    predictor = {"depth": {"kind": "norm_head", "hidden": 8}}
    job = Job(tiny(stages=3, depth=depth, predictor=predictor), tmp_path, lambda record: None, Event())
    edge = edge_in_process(job, 0)
    for step in range(24):
        for _ in range(3):
            edge.upstream.send(Frame(Kind.GRADIENT, step, done_through=step))
    assert edge.downstream.pending() == 72
