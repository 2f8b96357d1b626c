"""The program of one stage's process: `python -m workers.child RUN_DIR SOCKETS INDEX`, started by the supervisor.

It reads its settings from RUN_DIR, listens in the folder SOCKETS ("": at a port), and talks to the supervisor in JSON
lines: on stdin come `{"peer": address}` and `{"stop": true}`, on stdout go `{"event": "listening", "address": ...}`
(`"store"` from the first stage of a pipelined run), `{"event": "record", ...}`, and at last `{"event": "done"}` or
`{"event": "error", ...}`. When stdin ends, the supervisor is gone, and so are this process and the folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import torch

from dni.errors import DniError, PeerTimeout
from workers.assembly import Job, assemble
from workers.config import Config
from workers.links import connect, listen
from workers.memory import keep_memory
from workers.record import read_record
from workers.signals import ENDING


def main() -> None:
    """Run one stage and report how it ended; the exit status is 0 or 1."""
    run_dir, sockets, index = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2] else None, int(sys.argv[3])
    for number in ENDING:  # the supervisor decides what they mean; an engine may tell us all
        signal.signal(number, signal.SIG_IGN)
    threading.current_thread().name = f"stage-{index}"
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s][%(levelname)s][%(threadName)s] %(message)s")
    control, failed = Control(sockets), False
    with ExitStack() as links:  # closed after the report: the other stages then fail, too, and the cause must be first
        try:
            run_stage(read_record(run_dir), run_dir, index, control, links)
            control.say(event="done")
        except BaseException as error:
            failed = True
            logging.getLogger(__name__).exception("stage %d ended with an error", index)
            message = str(error) if isinstance(error, DniError) else f"{type(error).__name__}: {error}"
            control.say(event="error", type=type(error).__name__, message=message)
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
    from workers.pipelined import PipelinedWorker
    from workers.process_group import HERE, host_store, process_group, reach_store

    timeout_s = job.config.transport.timeout_s
    if index == 0:
        store, address = host_store(timeout_s)
        control.say(event="store", address=address)
    else:
        store = reach_store(control.peer(timeout_s), timeout_s)
    links.enter_context(process_group(job, index, store, HERE))
    PipelinedWorker(job, index).run()


class Control:
    """The two pipes to the supervisor. Anything else that prints goes to the log, not into the pipe."""

    def __init__(self, sockets: Path | None = None) -> None:
        self.sockets = sockets
        self.stop = threading.Event()
        self._peers: SimpleQueue[str] = SimpleQueue()
        self._lock = threading.Lock()
        self._out: IO[str] = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        threading.Thread(target=self._listen, name="control", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Send one line to the supervisor."""
        with self._lock:
            self._out.write(json.dumps(message) + "\n")

    def peer(self, timeout_s: float) -> str:
        """The address to connect to, once the supervisor has told it. Raises PeerTimeout."""
        try:
            return self._peers.get(timeout=timeout_s)
        except Exception as error:
            raise PeerTimeout(f"no address to connect to came within {timeout_s} s") from error

    def _listen(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "peer" in message:
                self._peers.put(message["peer"])
            if message.get("stop"):
                self.stop.set()
        if self.sockets is not None:  # which the supervisor would have removed
            shutil.rmtree(self.sockets, ignore_errors=True)
        os._exit(1)  # the supervisor is gone: leave no orphan


if __name__ == "__main__":
    main()
