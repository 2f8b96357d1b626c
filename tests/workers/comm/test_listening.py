"""Processes listen on the loopback interface only, unless the user allows links to leave the machine."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from omegaconf import OmegaConf

from dni.errors import ConfigError
from tests.support.comm.listening import listening
from tests.support.commands import SMALL, Command
from tests.support.runs import tiny
from tests.workers.launch.test_external import free_ports
from workers.build.data import resolve
from workers.config.convert import to_plain
from workers.config.settings import Config
from workers.launch.cluster_environment import RankInfo
from workers.launch.launcher import launch, launch_later_stage
from workers.launch.store import open_rendezvous
from workers.launch.supervisor import Supervisor
from workers.launch.threads import run_threads
from workers.runtime.job import Job
from workers.runtime.recorder import Recorder
from workers.storage.record import CONFIG

LOOPBACK = {"127.0.0.1"}


class WatchedJob:
    """A job of a tiny run that records the addresses its processes listen at."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        config, data = resolve(config)
        run_dir.mkdir()
        OmegaConf.save(OmegaConf.create(to_plain(config)), run_dir / CONFIG)
        self.addresses: set[str] = set()
        self.children: list[subprocess.Popen[str]] = []
        self.job = Job(config, run_dir, self.note, Event(), data)  # no folder for unix sockets

    def note(self, record: dict[str, Any]) -> None:
        if record["kind"] == "train":
            self.addresses |= listening(*(child.process.pid for child in self.children))


@pytest.mark.parametrize("kind", ["grpc", "torch_distributed"])
def test_threads_listen_on_loopback(kind: str, tmp_path: Path) -> None:
    run = WatchedJob(tiny(stages=3, transport={"kind": kind}), tmp_path / "run")
    run_threads(run.job)
    assert run.addresses == LOOPBACK


@pytest.mark.long
@pytest.mark.parametrize(("kind", "method"), [("torch_distributed", "synthetic"), ("grpc", "1f1b")])
def test_processes_listen_on_loopback(kind: str, method: str, tmp_path: Path) -> None:
    config = tiny(depth={"method": method}, transport={"kind": kind}, launch={"mode": "processes"})
    run = WatchedJob(config, tmp_path / "run")
    supervisor = Supervisor(run.job)
    run.children = supervisor.children
    supervisor.run()
    assert run.addresses == LOOPBACK


@pytest.mark.long
def test_processes_of_an_external_launch_listen_on_loopback(tmp_path: Path) -> None:
    """The store at MASTER_ADDR, and the group of a pipeline."""
    port = str(free_ports(1)[0])
    started = (*SMALL, "model.layers=2", "depth=1f1b", "steps=100000", "hydra.run.dir=outputs/of/two")
    with ExitStack() as both:
        first, second = (
            both.enter_context(
                Command(
                    tmp_path, started,
                    environment={
                        "RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                    },
                )
            )
            for rank in ("0", "1")
        )  # fmt: skip
        first.until_trained(5)
        assert listening(first.process.pid) == listening(second.process.pid) == LOOPBACK


@pytest.mark.parametrize("kind", ["grpc", "torch_distributed"])
@pytest.mark.parametrize("host", ["localhost", "a-name-of-this-machine.invalid"])
def test_external_stages_on_one_machine_listen_on_loopback(
    host: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages, here threads, find each other in the store; the machine may have any name."""
    monkeypatch.setenv("MASTER_ADDR", host)
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    config = tiny(launch={"mode": "external"}, transport={"kind": kind})
    ranks = [RankInfo(rank, 2, "WORLD_SIZE", True, None, 2) for rank in range(2)]
    second = threading.Thread(target=launch_later_stage, args=(config, tmp_path, ranks[1]))
    second.start()
    addresses: set[str] = set()
    saving = Recorder.saving

    def look(recorder: Recorder, step: int) -> Callable[[], None]:
        """Record the addresses while both stages are running."""
        addresses.update(listening())
        return saving(recorder, step)

    monkeypatch.setattr(Recorder, "saving", look)
    launch(config, tmp_path, ranks[0])
    second.join()
    assert addresses == LOOPBACK


def test_a_store_for_several_machines_listens_at_master_addr(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rank_info = RankInfo(0, 2, "WORLD_SIZE", True)
    for host, port in zip(("127.0.0.2", "0.0.0.0"), map(str, free_ports(2)), strict=True):
        monkeypatch.setenv("MASTER_ADDR", host)
        monkeypatch.setenv("MASTER_PORT", port)
        before = listening()
        store = open_rendezvous(rank_info, 5)
        assert listening() - before == {host}
        with pytest.raises(ConfigError, match=f"cannot listen at MASTER_ADDR:MASTER_PORT, {host}:{port}"):
            open_rendezvous(rank_info, 5)
        del store
    monkeypatch.setenv("MASTER_PORT", "http")
    with pytest.raises(ConfigError, match="MASTER_PORT=http in the environment must be a number"):
        open_rendezvous(rank_info, 5)
