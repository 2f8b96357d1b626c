"""Write checkpoints beside the training loop: the loop copies the state, and a thread writes the copy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from workers.storage import checkpoint
from workers.storage.stage_files import Snapshot, snapshot
from workers.system.background import background


class CheckpointWriter:
    """Writes the checkpoints of one stage, one at a time; a context manager that waits for the last one.

    Args:
        run_dir: the run's folder
        stages: number of files in a whole checkpoint
    """

    def __init__(self, run_dir: Path, stages: int) -> None:
        self.run_dir, self.stages = run_dir, stages
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._join()
        if error is None:
            self.check()

    def save(self, step: int, states: Mapping[int, dict[str, Any]], saved: Callable[[], None]) -> None:
        """Copy the states, by the index of their file, and begin to write them; first wait for the write before.

        `saved` is called in another thread once all files are on the disk. Raises the error of the write before.
        """
        self.finish()
        copies = {index: snapshot(state) for index, state in states.items()}
        self._thread = background("save", lambda: self._write(step, copies, saved), self._fail)
        self._thread.start()

    def check(self) -> None:
        """Raise the error of a write that has failed: OSError, or what `saved` raised."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Wait until everything is written. Raises as `check`."""
        self._join()
        self.check()

    def _write(self, step: int, copies: Mapping[int, Snapshot], saved: Callable[[], None]) -> None:
        for index, copy in copies.items():
            checkpoint.write(self.run_dir, index, self.stages, step, copy)
        saved()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _fail(self, error: Exception) -> None:
        self._failure = error
