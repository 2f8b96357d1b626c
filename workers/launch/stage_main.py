"""The program of one stage's process, with the arguments RUN_DIR SOCKETS CHANNEL INDEX; see `workers.system.spawn`.

It reads its settings from RUN_DIR, listens in the folder SOCKETS ("": at a port), and talks to the supervisor over the
descriptor CHANNEL (`workers.system.channel`). `{"peer": address}` and `{"stop": true}` come. What goes is `{"event":
"listening", "address": ...}` (`"store"` from the first stage of a pipelined run), `"stopping"` in answer to a stop,
`{"event": "record", ...}`, and at last `{"event": "done"}` or `{"event": "error", ...}`. When the channel ends, the
supervisor is gone, and so are this process and the folder. All that is printed goes to the stage's log.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

from dni.errors import DniError, PeerTimeout
from workers.config.settings import Config
from workers.runtime.assembly import assemble
from workers.runtime.job import Job
from workers.runtime.links import connect, listen
from workers.storage.record import read_record
from workers.system.background import background
from workers.system.channel import Channel
from workers.system.early_exit import no_early_exit
from workers.system.errors import as_refusal
from workers.system.malloc import keep_memory

#: Of an error's text, in the message to the supervisor; the log has all of it.
MOST_CHARACTERS = 4000


def main() -> None:
    """Run one stage and report how it ended; the exit status is 0 or 1."""
    run_dir, sockets = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None
    descriptor, index = int(sys.argv[3]), int(sys.argv[4])
    threading.current_thread().name = f"stage-{index}"
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s][%(threadName)s] %(message)s")
    control, failed = Control(descriptor, sockets), False
    with ExitStack() as links:  # closed after the report: the other stages then fail, too, and the cause must be first
        try:
            with no_early_exit():
                run_stage(read_record(run_dir), run_dir, index, control, links)
            control.say(event="done")
        except BaseException as error:
            failed = True
            logging.getLogger(__name__).exception("stage %d ended with an error", index)
            control.fail(error)
    sys.exit(failed)


def run_stage(config: Config, run_dir: Path, index: int, control: Control, links: ExitStack) -> None:
    """Link up, build, and work until the end; whoever calls closes the links."""
    keep_memory()
    torch.set_num_threads(config.torch_threads)
    job = Job(
        config, run_dir, lambda record: control.say(event="record", record=record), control.stop,
        sockets=control.sockets,
    )  # fmt: skip
    if config.pipelined:
        return _run_in_group(job, index, control, links)
    timeout_s = config.transport.timeout_s
    upstream = downstream = None
    if index:
        listener = links.enter_context(closing(listen(job, index)))
        control.say(event="listening", address=listener.address)
    if index < config.stages - 1:
        downstream = links.enter_context(closing(connect(job, index, control.peer(timeout_s))))
    if index:
        upstream = links.enter_context(closing(listener.accept(timeout_s)))
    return assemble(job, index, upstream, downstream).run()


def _run_in_group(job: Job, index: int, control: Control, links: ExitStack) -> None:
    # needs torch.distributed, which is slow to import and not in every build of torch
    from workers.runtime.pipeline.process_group import HERE, host_store, process_group, reach_store
    from workers.runtime.pipeline.worker import PipelinedWorker

    timeout_s = job.config.transport.timeout_s
    if index == 0:
        store, address = host_store(timeout_s)
        control.say(event="store", address=address)
    else:
        store = reach_store(control.peer(timeout_s), timeout_s)
    links.enter_context(process_group(job, index, store, HERE))
    PipelinedWorker(job, index).run()


class Control:
    """What a stage and its supervisor have to say to each other."""

    def __init__(self, descriptor: int, sockets: Path | None = None) -> None:
        self.sockets = sockets
        self.stop = threading.Event()
        self._peers: SimpleQueue[str] = SimpleQueue()
        self._channel = Channel.inherited(descriptor)
        background("control", self._listen, self._died).start()

    def say(self, **message: Any) -> None:
        """Send one message to the supervisor."""
        self._channel.say(**message)

    def fail(self, error: BaseException) -> None:
        """Tell the supervisor what has ended this stage."""
        named = as_refusal(error) or error
        text = str(named) if isinstance(named, DniError) else f"{type(named).__name__}: {named}"
        self.say(event="error", type=type(named).__name__, message=text[:MOST_CHARACTERS])

    def peer(self, timeout_s: float) -> str:
        """The address to connect to, once the supervisor has told it. Raises PeerTimeout."""
        try:
            return self._peers.get(timeout=timeout_s)
        except Exception as error:
            raise PeerTimeout(f"no address to connect to came within {timeout_s} s") from error

    def _listen(self) -> None:
        for message in self._channel.messages():
            if "peer" in message:
                self._peers.put(message["peer"])
            if message.get("stop"):
                self.stop.set()
                self.say(event="stopping")
        if self.sockets is not None:  # which the supervisor would have removed
            shutil.rmtree(self.sockets, ignore_errors=True)
        os._exit(1)  # the supervisor is gone: leave no orphan

    def _died(self, error: Exception) -> None:
        """Nobody hears the supervisor any more: tell it why, and end, whatever the stage is doing."""
        try:
            self.fail(error)
        finally:
            os._exit(1)
