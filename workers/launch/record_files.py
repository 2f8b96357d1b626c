"""Collect the records of stages that share no parent process: each writes a file, and the first stage follows them.

    records/stage-K.jsonl    one record a line, written by stage K, read by stage 0 until all have sent "end"

Stage 0 empties the files before it connects to the second stage; stages write only once they are connected.
"""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

from dni.errors import PeerTimeout, WireError
from workers.runtime.job import Job
from workers.system.background import background
from workers.system.errors import about

Record = dict[str, Any]

#: Seconds between two reads of the files.
EVERY_S = 0.2


def _parse(line: bytes, stage: int) -> Record:
    try:
        record = json.loads(line)
        return {**record, "kind": record["kind"]}
    except (ValueError, TypeError, KeyError):
        raise WireError(f"stage {stage} wrote a line that is not a record: {line[:60]!r}") from None


def record_file(run_dir: Path, stage: int) -> Path:
    """Return the path of a stage's records."""
    return run_dir / "records" / f"stage-{stage}.jsonl"


def append(run_dir: Path, stage: int, record: Record) -> None:
    """Append a record. The file is closed each time: network file systems show it to other machines only then."""
    path = record_file(run_dir, stage)
    with about(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


class RecordFollower:
    """Pass the records of all stages but the first to the job's sink; a context manager."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._read = dict.fromkeys(range(1, job.config.stages), 0)  # bytes read of each file
        self._waiting = {*self._read}
        self._failure: Exception | None = None
        self._over = False
        self._changed = threading.Condition()
        self._thread = background("gather", self._follow, self._fail)

    def __enter__(self) -> RecordFollower:
        record_file(self.job.run_dir, 0).parent.mkdir(exist_ok=True)
        for stage in self._read:
            record_file(self.job.run_dir, stage).write_bytes(b"")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join()
        if error is None:  # metrics.jsonl has all records
            shutil.rmtree(record_file(self.job.run_dir, 0).parent, ignore_errors=True)

    def until_ended(self, timeout_s: float) -> None:
        """Wait for the last record of every stage. Raises PeerTimeout if no record arrives for `timeout_s`."""
        with self._changed:
            while self._waiting and self._failure is None:
                if not self._changed.wait(timeout_s):
                    names = ", ".join(map(str, sorted(self._waiting)))
                    raise PeerTimeout(f"stage {names} did not report its end within {timeout_s:g} s")
        if self._failure is not None:
            raise self._failure

    def _follow(self) -> None:
        over = False
        while not over:
            with self._changed:
                over = self._changed.wait_for(lambda: self._over, EVERY_S)
            for stage in self._read:
                self._pass_on(stage)

    def _pass_on(self, stage: int) -> None:
        with record_file(self.job.run_dir, stage).open("rb") as file:
            file.seek(self._read[stage])
            whole, newline, _ = file.read().rpartition(b"\n")  # an unfinished line stays for the next read
        self._read[stage] += len(whole) + len(newline)
        for line in whole.splitlines():
            record = _parse(line, stage)
            self.job.sink(record)
            self._note(ended=stage if record["kind"] == "end" else None)

    def _note(self, ended: int | None) -> None:
        with self._changed:
            self._waiting -= {ended}
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        """End the run in good order; `until_ended` then raises the error."""
        with self._changed:
            self._failure = error
            self._changed.notify_all()
        self.job.stop.set()
