"""The program of one stage's process, with the arguments RUN_DIR SOCKETS INCARNATION CHANNEL
INDEX; see `workers.system.spawn`.

It reads its settings from RUN_DIR, listens in the folder SOCKETS ("": at a port), and exchanges messages with the
supervisor over the descriptor CHANNEL (`workers.system.channel`).

    received   {"peer": address}, {"stop": reason}, {"lost": stage} of a neighbour that will be started again
    sent       {"event": "listening", "address": ...}, or "store" from the first stage of a pipelined run
               {"event": "stopping"}, the answer to a stop
               {"event": "going", "step": ...} after the first frame, if a lost stage may start again alone
               {"event": "record", "record": ...}
               {"event": "done"} or {"event": "error", ...}, the last message

If the channel ends, the supervisor is gone: the process removes SOCKETS and exits. Its output goes to the stage's log.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from dni.errors import DniError, PeerTimeout
from workers.comm.transports.secret import take_secret
from workers.config.schema import LogFormat
from workers.config.settings import Config
from workers.launch.rejoin.links import LastingLinks
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.links import connect, listen
from workers.storage.record import read_record
from workers.system.background import background
from workers.system.channel import Channel
from workers.system.early_exit import no_early_exit
from workers.system.errors import as_refusal
from workers.system.json_logs import log_in_json
from workers.system.malloc import keep_memory
from workers.tracking.early_stopping import Stop

#: Longest error text in a message to the supervisor; the log has the full text.
MOST_CHARACTERS = 4000


def main() -> None:
    """Run one stage and report how it ended; exit with status 0 or 1."""
    run_dir, sockets = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None
    incarnation, descriptor, index = map(int, sys.argv[3:6])
    threading.current_thread().name = f"stage-{index}"
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s][%(threadName)s] %(message)s")
    control, failed = Control(descriptor, sockets), False
    with ExitStack() as links:  # closed after the report, so that the cause arrives before the failures of other stages
        try:
            with no_early_exit():
                run_stage(read_record(run_dir), run_dir, index, control, links, incarnation)
            control.send(event="done")
        except BaseException as error:
            failed = True
            logging.getLogger(__name__).exception("stage %d ended with an error", index)
            control.fail(error)
    sys.exit(failed)


def run_stage(
    config: Config, run_dir: Path, index: int, control: Control, links: ExitStack, incarnation: int = 0
) -> None:
    """Connect the links, build the stage, and train until the end. The caller closes `links`."""
    if config.tracking.log_format is LogFormat.json:
        log_in_json(run_dir.name, index)
    keep_memory()
    torch.set_num_threads(config.torch_threads)
    job = Job(
        config, run_dir, lambda record: control.send(event="record", record=record), control.stop,
        sockets=control.sockets, secret=take_secret(), incarnation=incarnation,
    )  # fmt: skip
    if config.pipelined:
        return _run_in_group(job, index, control, links)
    if config.replaces_stages:
        return _run_replaceable(job, index, control, links)
    timeout_s = config.transport.timeout_s
    upstream = downstream = None
    if index:
        listener = links.enter_context(closing(listen(job, index)))
        control.send(event="listening", address=listener.address)
    if index < config.stages - 1:
        downstream = links.enter_context(closing(connect(job, index, control.peer(timeout_s))))
    if index:
        upstream = links.enter_context(closing(listener.accept(timeout_s)))
    return assemble(job, index, upstream, downstream).run()


def _run_replaceable(job: Job, index: int, control: Control, opened: ExitStack) -> None:
    """Run a stage whose neighbours may start again without it. It is built first: then no frame waits for it."""
    links = LastingLinks(job, index, control.send, control.peer, opened)
    control.on_lost = links.lost
    worker = assemble(job, index, links.before, links.after)
    links.open()
    worker.run()


def _run_in_group(job: Job, index: int, control: Control, links: ExitStack) -> None:
    # imported here: torch.distributed is slow to import and not in every build of torch
    from workers.runtime.pipeline.process_group import HERE, host_store, process_group, reach_store
    from workers.runtime.pipeline.worker import PipelinedWorker

    timeout_s = job.config.transport.timeout_s
    if index == 0:
        store, address = host_store(timeout_s)
        control.send(event="store", address=address)
    else:
        store = reach_store(control.peer(timeout_s), timeout_s)
    links.enter_context(process_group(job, index, store, HERE))
    PipelinedWorker(job, index).run()


class Control:
    """A stage's side of the channel to its supervisor."""

    def __init__(self, descriptor: int, sockets: Path | None = None) -> None:
        self.sockets = sockets
        self.stop = Stop()
        self.on_lost: Callable[[int], None] = lambda stage: None  #: called with a neighbour that will be started again
        self._peers: SimpleQueue[str] = SimpleQueue()
        self._channel = Channel.inherited(descriptor)
        background("control", self._listen, self._died).start()

    def send(self, **message: Any) -> None:
        """Send one message to the supervisor."""
        self._channel.say(**message)

    def fail(self, error: BaseException) -> None:
        """Send the supervisor the error that ended this stage."""
        named = as_refusal(error) or error
        text = str(named) if isinstance(named, DniError) else f"{type(named).__name__}: {named}"
        self.send(event="error", type=type(named).__name__, message=text[:MOST_CHARACTERS])

    def peer(self, timeout_s: float | None) -> str:
        """Wait for the address of the peer to connect to; None: as long as it takes. Raises PeerTimeout."""
        try:
            return self._peers.get(timeout=timeout_s)
        except Exception as error:
            raise PeerTimeout(f"the supervisor sent no address to connect to within {timeout_s} s") from error

    def _listen(self) -> None:
        for message in self._channel.messages():
            if "peer" in message:
                self._peers.put(message["peer"])
            if "lost" in message:
                self.on_lost(message["lost"])
            if message.get("stop"):
                self.stop.because(message["stop"])
                self.send(event="stopping")
        if self.sockets is not None:  # the supervisor cannot remove it any more
            shutil.rmtree(self.sockets, ignore_errors=True)
        os._exit(1)  # the supervisor is gone: leave no orphan

    def _died(self, error: Exception) -> None:
        """Report the error and exit, whatever the stage is doing: nothing reads the supervisor's messages any more."""
        try:
            self.fail(error)
        finally:
            os._exit(1)
