"""launch=external: stages started by an engine, or by a user with environment variables."""

from __future__ import annotations

import json
import signal
import socket
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dni.errors import ConfigError, DivergedError, DniError, PeerTimeout, WorkerLost
from tests.support.commands import LOCAL, SMALL, Command, settings, summary_of
from tests.support.runs import assert_same, parameters_of, tiny
from workers.launch.cluster_environment import RankInfo
from workers.launch.external import connect_by_name
from workers.launch.launcher import launch, launch_later_stage
from workers.launch.record_files import RecordFollower, append, record_file
from workers.runtime.job import Job
from workers.storage import checkpoint
from workers.tracking.early_stopping import Stop


def losses(run_dir: Path) -> list[tuple[int, str, int, float]]:
    """Return the stages' losses, in a canonical order."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return sorted((r["stage"], r["kind"], r["step"], r.get("loss") or 0.0) for r in records)


@pytest.mark.timeout(120)
@pytest.mark.long
def test_a_run_under_torchrun_equals_one_in_one_process_bit_for_bit(tmp_path: Path) -> None:
    method = ("experiment=smoke", "depth=backprop", *SMALL[1:], "steps=6", "log_every=2", "evaluate.every=3")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "workers")
    with Command(tmp_path, method, program=torchrun) as command:
        done = command.finish(within=100)
    assert done.code == 0, done.err
    (folder,) = (tmp_path / "outputs").iterdir()
    launch(settings(*method, *LOCAL), tmp_path / "one")
    assert_same(parameters_of(folder, 2), parameters_of(tmp_path / "one", 2))
    assert losses(folder) == losses(tmp_path / "one")
    summary = summary_of(folder)
    assert (summary["launch"], summary["steps"], len(summary["stage"])) == ("external", 6, 2)
    assert {"dni.log", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert not (folder / "records").exists()


def free_ports(count: int) -> list[int]:
    with ExitStack() as taken:
        sockets = [taken.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@pytest.mark.long
@pytest.mark.timeout(120)
def test_two_processes_with_a_list_of_addresses_stop_on_an_engines_signal(tmp_path: Path) -> None:
    peers = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    method = (*SMALL, "depth=backprop")
    started = (
        *method, "launch=external", f"transport.peers=[{peers}]", "transport.delay_ms=5", "steps=100000",
        "hydra.run.dir=outputs/of/two",
    )  # fmt: skip
    with ExitStack() as both:
        second, first = (
            both.enter_context(Command(tmp_path, started, environment={"RANK": rank, "WORLD_SIZE": "2"}))
            for rank in ("1", "0")
        )
        first.until_trained(5)
        for command in (second, first):
            command.process.send_signal(signal.SIGTERM)
        done = [command.finish() for command in (first, second)]
    folder = tmp_path / "outputs" / "of" / "two"
    steps = summary_of(folder)["steps"]
    assert [one.code for one in done] == [130, 0]
    assert done[0].err == [f"dni-train: stopped after step {steps}; resume with: dni-train resume={folder}"]
    assert checkpoint.complete_steps(folder) == [steps]
    launch(settings(*method, *LOCAL, f"steps={steps}"), tmp_path / "one")
    assert_same(parameters_of(folder, 2), parameters_of(tmp_path / "one", 2))


def run_all(tmp_path: Path, **changes: Any) -> tuple[Any, list[DniError]]:
    """Run the stages as threads here, each as if in its own process; return the first one's result, and all errors."""
    stages = int(changes.get("stages", 2))
    peers = [f"127.0.0.1:{port}" for port in free_ports(stages)]
    config = tiny(**changes, launch={"mode": "external"}, transport={"kind": "grpc", "peers": peers, "timeout_s": 20})
    errors: list[DniError] = []

    def later(rank: int) -> None:
        try:
            launch_later_stage(config, tmp_path, rank_info(rank))
        except DniError as error:
            errors.append(error)

    def rank_info(rank: int) -> RankInfo:
        return RankInfo(rank, stages, "WORLD_SIZE", True)

    threads = [threading.Thread(target=later, args=(rank,)) for rank in range(1, stages)]
    for thread in threads:
        thread.start()
    result = None
    try:
        result = launch(config, tmp_path, rank_info(0))
    except DniError as error:
        errors.append(error)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return result, errors


def test_the_first_stage_gets_all_records(tmp_path: Path) -> None:
    """The parameters never move, so patience ends the run, based on the last stage's records."""
    evaluate = {"every": 3, "windows": 1, "patience": 2}
    result, errors = run_all(tmp_path, stages=3, steps=10**6, optimizer={"learning_rate": 1e-30}, evaluate=evaluate)
    assert errors == []
    assert (result.interrupted, result.summary["ended"], result.summary["best"]["step"]) == (False, "patience", 3)
    assert [stage["index"] for stage in result.summary["stage"]] == [0, 1, 2]


def test_an_absurd_loss_ends_all_stages_in_good_order(tmp_path: Path) -> None:
    evaluate = {"every": None, "windows": 1}
    huge = {"depth": {"method": "local"}, "optimizer": {"learning_rate": 1e9}, "evaluate": evaluate}
    result, errors = run_all(tmp_path, steps=10**6, log_every=1000, **huge)
    assert result is None
    assert [type(error) for error in errors] == [DivergedError]  # only the first stage reports for the run
    assert "the loss of the last 100 steps is" in str(errors[0])
    assert summary_of(tmp_path)["ended"] == "diverged"


def test_each_stage_reports_why_it_ended(tmp_path: Path) -> None:
    huge = {"kind": "sgd", "learning_rate": 1e38, "clip": None}
    result, errors = run_all(tmp_path, depth={"method": "backprop"}, optimizer=huge, steps=100)
    assert result is None
    assert {type(error) for error in errors} <= {DivergedError, WorkerLost}
    (first,) = (error for error in errors if str(error).startswith("stage 1, step "))  # reported by the first stage
    (last,) = (error for error in errors if error is not first)
    assert isinstance(first, DivergedError)
    assert str(last).startswith("stage 1: ")
    assert summary_of(tmp_path)["ended"] == "diverged"
    assert all("no complete checkpoint had been written" in str(error) for error in errors)
    assert record_file(tmp_path, 1).exists()


def test_a_folder_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").touch()
    config = tiny(launch={"mode": "external"}, transport={"kind": "grpc"})
    with pytest.raises(ConfigError, match="already holds a run"):
        launch(config, tmp_path, RankInfo(0, 2, "WORLD_SIZE", True, None, 2))


def job(run_dir: Path, sink: Any) -> Job:
    return Job(tiny(), run_dir, sink, Stop())


def test_records_arrive_in_order_and_whole(tmp_path: Path) -> None:
    got: list[dict[str, Any]] = []
    record_file(tmp_path, 1).parent.mkdir()
    append(tmp_path, 1, {"kind": "end", "step": 9})  # of an earlier run in this folder
    with RecordFollower(job(tmp_path, got.append)) as others:
        with record_file(tmp_path, 1).open("a") as file:
            file.write('{"kind": "train", "step": 1}\n{"kind": "tr')
            file.flush()
            file.write('ain", "step": 2}\n')
        append(tmp_path, 1, {"kind": "end", "step": 2})
        others.until_ended(20)
    assert [(record["kind"], record["step"]) for record in got] == [("train", 1), ("train", 2), ("end", 2)]


def test_a_stage_that_does_not_report_its_end_is_named(tmp_path: Path) -> None:
    with RecordFollower(job(tmp_path, print)) as others:
        append(tmp_path, 1, {"kind": "train", "step": 2})
        with pytest.raises(PeerTimeout, match=r"stage 1 did not report its end within 0\.3 s"):
            others.until_ended(0.3)


def test_a_record_that_cannot_be_written_ends_the_first_stage(tmp_path: Path) -> None:
    def full(record: dict[str, Any]) -> None:
        raise OSError("no space left")

    with RecordFollower(job(tmp_path, full)) as others:
        append(tmp_path, 1, {"kind": "train", "step": 2})
        with pytest.raises(OSError, match="no space left"):
            others.until_ended(20)


def test_a_host_name_that_cannot_be_resolved_is_named(tmp_path: Path) -> None:
    """The name is resolved only after the timeout, because a cluster may publish names after a stage starts."""
    config = tiny(transport={"kind": "grpc", "insecure": True, "timeout_s": 0.3})
    here = Job(config, tmp_path, print, Stop())
    with pytest.raises(
        PeerTimeout, match=r"cannot resolve the name gone\.invalid: start that stage with transport\.bind=ADDR"
    ):
        connect_by_name(here, 0, "gone.invalid:7000")
    with pytest.raises(PeerTimeout, match=r"is it running there\?$"):
        connect_by_name(here, 0, "localhost:1")


def test_a_store_that_is_never_opened_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.launch.store import Stored

    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(free_ports(1)[0]))
    with pytest.raises(PeerTimeout, match=r"no store at MASTER_ADDR:MASTER_PORT within 0\.1 s"):
        Stored(RankInfo(1, 2, "WORLD_SIZE", True), "run", 0.1)
