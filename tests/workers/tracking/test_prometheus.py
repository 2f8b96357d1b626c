"""Figures for Prometheus over HTTP."""

from __future__ import annotations

import socket
import urllib.request
from importlib import util
from pathlib import Path
from types import TracebackType

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dni.errors import ConfigError
from tests.support.records import train, valid
from tests.support.runs import tiny
from workers.launch import launcher
from workers.launch.launcher import launch
from workers.tracking import prometheus
from workers.tracking.monitor import Monitor
from workers.tracking.prometheus import serving

Samples = dict[tuple[str, str], float]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def read(port: int, run: str) -> tuple[Samples, dict[str, str]]:
    """Return the samples of a run by name and stage, and the types of the metrics by name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        families = [*text_string_to_metric_families(answer.read().decode())]
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["run"] for sample in samples} <= {run}
    return {(s.name, s.labels["stage"]): s.value for s in samples}, {family.name: family.type for family in families}


def test_the_newest_record_of_every_stage_is_served() -> None:
    port = free_port()
    with serving("mine", port, "127.0.0.1") as metrics:
        assert metrics is not None
        assert read(port, "mine") == ({}, {})
        for record in (
            train(0, 10, dropped_targets=1), train(0, 20, dropped_targets=2), {},
            train(1, 10, loss=1.5, staleness=None),
            valid(10, loss=2.25), {"kind": "checkpoint", "stage": 1, "step": 10},
        ):  # fmt: skip
            metrics.show(record)
        samples, types = read(port, "mine")
    assert samples == {
        ("dni_step", "0"): 20, ("dni_steps_per_second", "0"): 10, ("dni_lateness_steps", "0"): 2.5,
        ("dni_queue_frames", "0"): 1, ("dni_in_flight_frames", "0"): 2, ("dni_busy_ratio", "0"): 0.5,
        ("dni_dropped_targets_total", "0"): 2,
        ("dni_step", "1"): 10, ("dni_steps_per_second", "1"): 10, ("dni_loss", "1"): 1.5,
        ("dni_queue_frames", "1"): 1, ("dni_in_flight_frames", "1"): 2, ("dni_busy_ratio", "1"): 0.5,
        ("dni_validation_loss", "1"): 2.25, ("dni_checkpoint_step", "1"): 10,
    }  # fmt: skip
    assert (types["dni_step"], types["dni_dropped_targets"]) == ("gauge", "counter")


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_silent_client_delays_neither_others_nor_the_end() -> None:
    port = free_port()
    with serving("mine", port, "127.0.0.1") as metrics, socket.create_connection(("127.0.0.1", port)) as silent:
        assert metrics is not None
        metrics.show(train(0, 10))
        assert read(port, "mine")[0]["dni_step", "0"] == 10
        silent.shutdown(socket.SHUT_RDWR)
    with socket.create_server(("127.0.0.1", port), reuse_port=True):  # it is free again
        pass


def test_a_run_serves_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame has 4 streams of 6 steps: 8 values of 4 bytes and a label of 8 bytes each; two flags for every stream.

    A reply has a gradient of the values' size, and a loss of three numbers.
    """
    port, found = free_port(), []

    class Read(Monitor):
        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            super().__exit__(kind, error, trace)  # shows what it has
            found.append(read(port, "run")[0])

    monkeypatch.setattr(launcher, "Monitor", Read)
    tracking = {"prometheus_port": port}
    evaluate = {"every": None, "windows": 1}
    launch(tiny(depth={"method": "backprop"}, steps=10, evaluate=evaluate, tracking=tracking), tmp_path / "run")
    (samples,) = found
    assert [samples["dni_step", stage] for stage in "01"] == [10, 10]
    assert [samples["dni_checkpoint_step", stage] for stage in "01"] == [10, 10]
    assert samples["dni_loss", "1"] > 0
    frames, replies = 10 * (4 * 6 * (8 * 4 + 8) + 2 * 4), 10 * (4 * 6 * 8 * 4 + 3 * 8)
    assert [samples["dni_sent_bytes_total", stage] for stage in "01"] == [frames, replies]


def test_no_port_is_opened_without_the_setting() -> None:
    with serving("mine", None, "127.0.0.1") as metrics:
        assert metrics is None


def test_a_missing_package_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(prometheus, "find_spec", lambda name: None if name == "prometheus_client" else find(name))
    with pytest.raises(ConfigError) as refused:
        launch(tiny(tracking={"prometheus_port": 9400}), tmp_path / "run")
    assert str(refused.value) == (
        "tracking.prometheus_port=9400 needs the package prometheus_client: pip install 'dni[prometheus]' (or set "
        "tracking.prometheus_port=null)"
    )
    assert not (tmp_path / "run").exists()


def test_a_taken_port_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            launch(tiny(tracking={"prometheus_port": port}), tmp_path / "run")
    assert str(refused.value) == (
        f"tracking.prometheus_port={port}: cannot listen at 127.0.0.1:{port}: Address already in use; name a free "
        "port (or set tracking.prometheus_port=null)"
    )
    assert not (tmp_path / "run" / "config.yaml").exists()
