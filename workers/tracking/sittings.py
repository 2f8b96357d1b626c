"""The sittings of a run: each start of it (the first, and every resume) is a record in `metrics.jsonl`.

The first sitting gives the run its id. Later sittings keep the id, also in other folders, so that a run and its
continuations can be matched.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workers.config.settings import Config
from workers.tracking.run import METRICS, read_metrics

log = logging.getLogger(__name__)

Record = dict[str, Any]

KIND = "sitting"


def begin_sitting(config: Config) -> Record:
    """Return the record that opens this sitting, and log the steps that will be repeated.

    Call it before the records after the resumed checkpoint are dropped. Raises ConfigError for damaged records.
    """
    folder = None if config.resume is None else Path(config.resume)
    path = None if folder is None else folder / METRICS
    earlier = read_metrics(path) if path is not None and path.is_file() else []
    begun = {**sitting(earlier, config.resume_step or 0, folder), "stages": config.stages}
    if begun["repeated_steps"]:
        message = "resuming after step %d: at least %d later steps (%.1f s) are computed again"
        log.info(message, begun["step"], begun["repeated_steps"], begun["repeated_s"])
    return begun


def sitting(earlier: Sequence[Record], start: int, resumed: Path | None) -> Record:
    """Return the record of a sitting that begins after step `start`.

    Args:
        earlier: all records of the run that it resumes
        start: the step of the checkpoint; `repeated_steps` and `repeated_s` count the recorded steps after it
        resumed: the folder of the resumed run, or None
    """
    ids = [record["id"] for record in earlier if record.get("kind") == KIND]
    kept_s = max((_wall_s(record) for record in earlier if record["step"] <= start), default=0.0)
    all_s = max(map(_wall_s, earlier), default=0.0)
    return {
        "kind": KIND,
        "stage": 0,
        "step": start,
        "wall_s": kept_s,
        "id": ids[0] if ids else uuid.uuid4().hex[:16] if resumed is None else id_of_folder(resumed),
        "machine": machine(),
        "repeated_steps": max((record["step"] - start for record in earlier if record["step"] > start), default=0),
        "repeated_s": max(0.0, all_s - kept_s),
    }


def totals(sittings: Sequence[Record]) -> dict[str, Any]:
    """Return the summary's figures over all sittings: the run's id, their number, machines, and repeated steps and
    seconds."""
    return {
        "id": sittings[0]["id"],
        "sittings": len(sittings),
        "machines": list(dict.fromkeys(record["machine"] for record in sittings)),
        "repeated": {key: sum(record[f"repeated_{key}"] for record in sittings) for key in ("steps", "s")},
    }


def last_stages(records: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Of each record, the last stage of the sitting that it is of; None: that sitting does not say."""
    found: list[int | None] = []
    last: int | None = None
    for record in records:
        if record.get("kind") == KIND:
            last = record["stages"] - 1 if "stages" in record else None
        found.append(last)
    return found


def id_of_folder(folder: Path) -> str:
    """Return an id for a run whose records have none."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def machine() -> str:
    """Return this machine's name, processor and number of cores."""
    return f"{platform.node()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _wall_s(record: Record) -> float:
    return float(record.get("wall_s") or 0.0)
