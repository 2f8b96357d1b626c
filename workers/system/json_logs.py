"""Log lines as JSON, one object each, that say which run, stage and step they are of.

{"time": "2026-01-31T12:00:00.123+00:00", "level": "WARNING", "run": "12-00-00", "stage": 1, "step": 20, ...}
"""

from __future__ import annotations

import io
import json
import logging
from contextlib import suppress
from datetime import datetime, timezone

log = logging.getLogger(__name__)

#: The newest step of each stage that this process knows of.
_steps: dict[int, int] = {}

_THREAD = "stage-"  # beginning of the names of threads that run a stage


def note_step(stage: int, step: int) -> None:
    """Tell at which step a stage is. Called at every step, so it does nothing else."""
    _steps[stage] = step


class JsonFormatter(logging.Formatter):
    """Writes `time` (UTC), `level`, `run`, `stage`, `step`, `message`, and `error` (a traceback) if there is one.

    Args:
        run: name of the run's folder.
        stage: of this process. None: it runs several, or none; threads named `stage-K` are of stage K, for others
            `stage` is null and `step` that of the slowest stage.
    """

    def __init__(self, run: str, stage: int | None = None) -> None:
        super().__init__()
        self.run, self.stage = run, stage

    def format(self, record: logging.LogRecord) -> str:
        stage = self._stage_of(record.threadName or "")
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self.run,
            "stage": stage,
            "step": min(_steps.values(), default=None) if stage is None else _steps.get(stage),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)

    def _stage_of(self, thread: str) -> int | None:
        number = thread.removeprefix(_THREAD)
        return int(number) if number != thread and number.isdecimal() else self.stage


def log_in_json(run: str, stage: int | None = None) -> None:
    """Make all log handlers of this process write JSON; Python's warnings are logged, too."""
    _steps.clear()
    formatter = JsonFormatter(run, stage)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
    logging.captureWarnings(True)


def as_logged(message: str, level: int) -> str:
    """Return a message for the terminal as this process logs it: as it is, or as a line of JSON."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            return handler.formatter.format(logging.LogRecord("", level, "", 0, message, None, None))
    return message


def logged_text(line: str) -> str:
    """Return the message of a log line: of JSON its `message`, else the line itself."""
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(line)["message"])
    return line.strip()


class LoggedLines(io.StringIO):
    """A text file whose lines are logged."""

    def write(self, text: str) -> int:
        for line in filter(None, map(str.rstrip, text.splitlines())):
            log.info("%s", line)
        return len(text)
