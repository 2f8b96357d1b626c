"""The file in which a stage leaves its timeline for the trace: RUN_DIR/timeline/stage-K.json."""

from __future__ import annotations

import json
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from workers.runtime.timeline.slices import FrameNote, Slice, Timeline
from workers.system.errors import about

#: Folder of the files, inside the run's.
FOLDER = "timeline"


@dataclass(frozen=True)
class StageTimes:
    """The timeline of one stage as its file has it; times in seconds of the stage's own clock."""

    stage: int
    clock: str  #: name of the clock; stages with one name share it
    wall_offset: float  #: Unix time minus that clock, in seconds
    slices: list[Slice]
    sent: list[FrameNote]
    received: list[FrameNote]


def write_stage(run_dir: Path, timeline: Timeline) -> None:
    """Write the timeline of a stage."""
    path = path_of(run_dir, timeline.index)
    path.parent.mkdir(exist_ok=True)
    content = {
        "clock": clock_name(), "wall_offset": time.time() - time.monotonic(),
        "slices": [[*each[:4], dict(each.details)] for each in timeline.slices],
        "sent": timeline.sent, "received": timeline.received,
    }  # fmt: skip
    with about(path):
        path.write_text(json.dumps(content), encoding="utf-8")


def read_stage(run_dir: Path, stage: int) -> StageTimes | None:
    """Return the timeline of a stage, or None if it left none."""
    path = path_of(run_dir, stage)
    if not path.is_file():
        return None
    found = json.loads(path.read_bytes())
    return StageTimes(
        stage, found["clock"], found["wall_offset"], [Slice(*each) for each in found["slices"]],
        [FrameNote(*each) for each in found["sent"]], [FrameNote(*each) for each in found["received"]],
    )  # fmt: skip


def path_of(run_dir: Path, stage: int) -> Path:
    """Return the path of a stage's file."""
    return run_dir / FOLDER / f"stage-{stage}.json"


def clock_name() -> str:
    """Return a name that processes share if `time.monotonic` is the same for them: of this start of the machine."""
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return boot or platform.node()
