"""All stages as threads of this process: tests, emulation, small models."""

from __future__ import annotations

import threading
from queue import SimpleQueue

import torch

from dni.errors import DniError, WorkerLost
from workers.assembly import Job, assemble
from workers.config import TransportKind
from workers.links import grpc_edge, local_edge
from workers.transports.base import ChannelEnd
from workers.worker import Worker

Outcome = tuple[int, BaseException | None]


def run_threads(job: Job) -> None:
    """Run every stage in a thread until all have ended. Raises the first stage's error that is not a consequence."""
    stages = job.config.stages
    torch.set_num_threads(job.config.torch_threads)
    edges = [_edge(job, k) for k in range(stages - 1)]
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    try:
        workers = [
            assemble(job, k, edges[k - 1][1] if k else None, edges[k][0] if k < stages - 1 else None)
            for k in range(stages)
        ]
        threads = [
            threading.Thread(target=_work, args=(k, worker, outcomes), name=f"stage-{k}", daemon=True)
            for k, worker in enumerate(workers)
        ]
        for thread in threads:
            thread.start()
        _supervise(job, outcomes, edges)
        for thread in threads:
            thread.join()
    finally:
        _close(edges)


def _edge(job: Job, k: int) -> tuple[ChannelEnd, ChannelEnd]:
    return local_edge(job) if job.config.transport.kind is TransportKind.local else grpc_edge(job, k)


def _work(index: int, worker: Worker, outcomes: SimpleQueue[Outcome]) -> None:
    try:
        worker.run()
        outcomes.put((index, None))
    except BaseException as error:  # whatever it is, the launcher must hear of it
        outcomes.put((index, error))


def _supervise(job: Job, outcomes: SimpleQueue[Outcome], edges: list[tuple[ChannelEnd, ChannelEnd]]) -> None:
    failures: list[tuple[int, BaseException]] = []
    for _ in range(job.config.stages):
        index, error = outcomes.get()
        if error is not None:
            failures.append((index, error))
            _close(edges)  # wakes every other stage
    if failures:
        index, error = min(failures, key=lambda failure: isinstance(failure[1], WorkerLost))
        if isinstance(error, DniError):
            raise type(error)(f"stage {index}: {error}") from error
        raise error


def _close(edges: list[tuple[ChannelEnd, ChannelEnd]]) -> None:
    for edge in edges:
        for end in edge:
            end.close()
