"""Runs whose connection is cut or stalls: they end as if nothing had happened."""

import threading
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from torch import Tensor

from tests.support.comm.proxy import Proxy, Way
from tests.support.runs import assert_same, parameters_of, tiny
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd, LinkContext
from workers.comm.transports.grpc.end import GrpcEnd
from workers.comm.transports.grpc.transport import Grpc
from workers.config.settings import Config
from workers.launch.launcher import launch

DEPTHS = {"backprop": {"method": "backprop"}, "lagged": {"method": "synthetic", "lag": 1}}

#: A frame, and where the connection is cut once it is sent: the way, and the bytes that still pass.
CUTS = {
    "before a step": (Kind.STEP, 3, Way.DOWN, 0),
    "inside a step": (Kind.STEP, 3, Way.DOWN, 200),
    "before a gradient": (Kind.GRADIENT, 5, Way.UP, 0),
    "inside a gradient": (Kind.GRADIENT, 5, Way.UP, 100),
    "in validation": (Kind.EVALUATE, 4, Way.DOWN, 100),
    "before the reply of a window": (Kind.EVALUATE, 4, Way.UP, 0),
    "before a checkpoint": (Kind.CHECKPOINT, 6, Way.DOWN, 0),
    "before the reply of a checkpoint": (Kind.CHECKPOINT, 6, Way.UP, 0),
    "before the last frame": (Kind.END, 10, Way.DOWN, 0),
    "before the last reply": (Kind.END, 10, Way.UP, 0),
    "after the last reply": (Kind.DONE, 10, Way.DOWN, 0),
}
QUICK = ("inside a step", "before the last reply")


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Proxy]]:
    """Lead every gRPC link through a proxy; yield the proxies of the links made so far."""
    made: list[Proxy] = []
    connect = Grpc.connect

    def connect_through(transport: Grpc, address: str, context: LinkContext) -> ChannelEnd:
        made.append(Proxy(address))
        return connect(transport, made[-1].address, context)

    monkeypatch.setattr(Grpc, "connect", connect_through)
    yield made
    for proxy in made:
        proxy.close()


def run_of(depth: str, **transport: Any) -> Config:
    grpc = {"kind": "grpc", "bind": "127.0.0.1:0", "timeout_s": 30, "reconnect_s": 20, **transport}
    return tiny(depth=DEPTHS[depth], transport=grpc, checkpoint={"every": 6})


@cache
def undisturbed(depth: str) -> dict[str, Tensor]:
    with TemporaryDirectory() as folder:
        launch(tiny(depth=DEPTHS[depth], checkpoint={"every": 6}), Path(folder, "run"))
        return parameters_of(Path(folder, "run"), 2)


def on_frame(monkeypatch: pytest.MonkeyPatch, kind: Kind, step: int, act: Any) -> None:
    """Call `act` before the first frame of this kind and step is sent."""
    send, acted = GrpcEnd.send, threading.Event()

    def send_and_act(end: GrpcEnd, frame: Frame) -> None:
        if (frame.kind, frame.step) == (kind, step) and not acted.is_set():
            acted.set()
            act()
        send(end, frame)

    monkeypatch.setattr(GrpcEnd, "send", send_and_act)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("cut", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in CUTS])
def test_a_run_whose_connection_is_cut_equals_an_undisturbed_one(
    depth: str, cut: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kind, step, way, count = CUTS[cut]
    on_frame(monkeypatch, kind, step, lambda: proxies[0].cut_after(way, count))
    start = time.monotonic()
    summary = launch(run_of(depth), tmp_path / "run").summary
    assert time.monotonic() - start < 15  # neither end waits for the other until reconnect_s is over
    assert_same(parameters_of(tmp_path / "run", 2), undisturbed(depth))
    assert proxies[0].opened == 2
    if "last" not in cut:
        assert summary["stage"][0]["reconnects"] == 1
    assert "reconnects" not in summary["stage"][1]


@pytest.mark.long
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_silent_connection_is_made_anew(
    depth: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_frame(monkeypatch, Kind.STEP, 3, lambda: proxies[0].stall())
    summary = launch(run_of(depth, keepalive_s=0.5), tmp_path / "run").summary
    assert_same(parameters_of(tmp_path / "run", 2), undisturbed(depth))
    assert summary["stage"][0]["reconnects"] == 1


@pytest.mark.long
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_stall_of_five_seconds_only_takes_time(
    depth: str, proxies: list[Proxy], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_frame(monkeypatch, Kind.STEP, 3, lambda: threading.Timer(5, proxies[0].stall().set).start())
    start = time.monotonic()
    summary = launch(run_of(depth), tmp_path / "run").summary
    assert time.monotonic() - start > 5
    assert_same(parameters_of(tmp_path / "run", 2), undisturbed(depth))
    assert "reconnects" not in summary["stage"][0]
