"""Pipelined runs in processes that serve several runs, so each process imports torch only once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch.distributed.distributed_c10d import PrefixStore, Store

from tests.support.runs import tiny
from workers.build.data import resolve
from workers.config.convert import from_any, to_plain
from workers.config.settings import Config
from workers.resume.resume import settle_resume
from workers.runtime.job import Job
from workers.storage.record import CONFIG

Outcome = list[dict[str, Any]] | BaseException


PROCESSES = {"transport": {"kind": "grpc", "timeout_s": 30}, "launch": {"mode": "processes", "torch_threads": 1}}


def piped(method: str, **changes: Any) -> Config:
    """Return the settings of a tiny pipelined run: 8 streams, sequences of 3 windows."""
    depth = {"method": method, **changes.pop("depth", {})}
    model = changes.pop("model", {})
    model = model if "_target_" in model else {"units": 8, "layers": 7, **model}
    data = {"batch": 8, **changes.pop("data", {})}
    return tiny(depth=depth, model=model, data=data, **{**PROCESSES, **changes})


def succeeded(outcomes: list[Outcome]) -> list[list[dict[str, Any]]]:
    """Return the records of every stage; fail on errors."""
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert not errors, errors
    return outcomes  # type: ignore[return-value]


class Ranks:
    """A context manager with `size` processes, one per stage."""

    def __init__(self, size: int) -> None:
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.runs = 0  # number of runs; each has its own keys in the store
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(size)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            context.Process(target=_serve, args=(rank, f"127.0.0.1:{self.store.port}", theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]

    def __enter__(self) -> Ranks:
        for process in self.processes:
            process.start()
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def run(self, config: Config, run_dir: Path, stop_after: int | None = None) -> list[Outcome]:
        """Train to the end, with this process's default dtype. Return each stage's records, or the error that ended it.

        `stop_after`: stop the run when the first stage records this step.
        """
        config, _ = resolve(config)
        config = settle_resume(config)
        run_dir.mkdir(exist_ok=True)
        OmegaConf.save(OmegaConf.create(to_plain(config)), run_dir / CONFIG)
        self.runs += 1
        for pipe in self.pipes[: config.stages]:
            pipe.send((self.runs, torch.get_default_dtype(), to_plain(config), run_dir, stop_after))
        return [pipe.recv() for pipe in self.pipes[: config.stages]]


def _serve(rank: int, address: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    from workers.runtime.pipeline.process_group import reach_store

    store = reach_store(address, 30)
    while True:
        run, dtype, plain, run_dir, stop_after = pipe.recv()
        torch.set_default_dtype(dtype)
        try:
            pipe.send(_work(from_any(plain), rank, run_dir, stop_after, PrefixStore(str(run), store)))
        except BaseException as error:
            pipe.send(error)


def _work(config: Config, rank: int, run_dir: Path, stop_after: int | None, store: Store) -> list[dict[str, Any]]:
    from workers.runtime.pipeline.process_group import HERE, process_group
    from workers.runtime.pipeline.worker import PipelinedWorker

    records: list[dict[str, Any]] = []
    stop = Event()

    def note(record: Mapping[str, Any]) -> None:
        records.append(dict(record))
        if record["kind"] == "train" and record["step"] == stop_after:
            stop.set()

    job = Job(config, run_dir, note, stop)
    with process_group(job, rank, store, HERE):
        PipelinedWorker(job, rank).run()
    return records
