"""Run all stages as threads of this process, for tests, emulation and small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

import torch

from dni.errors import DniError
from workers.comm.transports.base import Edge
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.links import edge_in_process
from workers.runtime.worker import Worker
from workers.system.background import background
from workers.system.early_exit import no_early_exit
from workers.system.errors import as_refusal
from workers.system.malloc import keep_memory

Outcome = tuple[int, BaseException | None]


def run_threads(job: Job) -> None:
    """Run every stage in a thread until all have ended. Raises the error of the stage that failed first."""
    keep_memory()
    stages = job.config.stages
    torch.set_num_threads(job.config.torch_threads)
    edges: list[Edge] = []
    outcomes: SimpleQueue[Outcome] = SimpleQueue()
    try:
        edges += (edge_in_process(job, k) for k in range(stages - 1))
        workers = [
            assemble(job, k, edges[k - 1].upstream if k else None, edges[k].downstream if k < stages - 1 else None)
            for k in range(stages)
        ]
        threads = [
            background(f"stage-{k}", partial(_work, worker, job.config.torch_threads, note), note)
            for k, worker in enumerate(workers)
            for note in [partial(_note, outcomes, k)]
        ]
        for thread in threads:
            thread.start()
        _wait(outcomes, edges, workers)
        for thread in threads:
            thread.join()
    finally:
        _close(edges)


def _note(outcomes: SimpleQueue[Outcome], index: int, error: BaseException | None = None) -> None:
    outcomes.put((index, error))


def _work(worker: Worker, torch_threads: int, note: Callable[..., None]) -> None:
    try:
        torch.set_num_threads(torch_threads)  # MKL keeps this number per thread
        with no_early_exit():
            worker.run()
        note()
    except BaseException as error:  # the launcher must get every error
        note(error)


def _wait(outcomes: SimpleQueue[Outcome], edges: list[Edge], workers: list[Worker]) -> None:
    first: tuple[int, BaseException] | None = None
    for _ in workers:
        index, error = outcomes.get()
        if error is not None and first is None:
            first = index, error
            _close(edges)  # wakes the other stages, which then fail too
    if first is not None:
        index, error = first
        refusal = as_refusal(error)
        if refusal is not None:
            raise type(refusal)(f"stage {index}, step {workers[index].step}: {refusal}") from error
        if isinstance(error, DniError):
            raise type(error)(_placed(str(error), index, workers[index].step)) from error
        raise error


def _placed(message: str, stage: int, step: int) -> str:
    """Return a message that names the stage and the step that it is about."""
    place = [] if message.startswith(f"stage {stage}") else [f"stage {stage}"]
    place += [] if "step " in message else [f"step {step}"]
    return f"{', '.join(place)}: {message}" if place else message


def _close(edges: list[Edge]) -> None:
    for edge in edges:
        edge.close()
