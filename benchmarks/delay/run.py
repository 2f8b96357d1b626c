"""Run four processes on four emulated hosts, and measure them while the delay between them changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.grid import Cell, Grid, Row
from benchmarks.harness.runs import Failed
from benchmarks.network.hosts import DEVICE, Hosts

PORT = 7000
EVERY = 4  # steps between records
START_S = 120.0  # longest wait for the first record, and for the next one
#: Settings of every run beside its method.
LINKED = ("launch=external", "launch.torch_threads=1", "transport.insecure=true", "checkpoint.every=null")
#: Settings of a run that is measured and then stopped.
WATCHED = (*LINKED, f"log_every={EVERY}", "steps=1000000", "evaluate.every=null", "evaluate.windows=1")
SYNCHRONOUS = ("gpipe", "1f1b", "interleaved_1f1b", "zero_bubble")

Record = dict[str, Any]


class Phase(NamedTuple):
    """A delay and how long to measure it: at least so many seconds and steps."""

    delay_ms: float
    seconds: float
    steps: int


def observe(hosts: Hosts, grid: Grid, phases: Sequence[Phase], cell: Cell) -> Row:
    """Measure one run at each delay; return the figures by delay in ms. Raises Failed if the run ends early."""
    run_dir = grid.folder(cell).absolute()
    shutil.rmtree(run_dir, ignore_errors=True)
    found = {}
    with started(hosts, run_dir, cell.overrides) as follow:
        for phase in phases:
            hosts.set_delay(phase.delay_ms)
            found[f"{phase.delay_ms:g}"] = watch(hosts, follow, phase, in_flight=settling(cell))
    return {"delays": found}


def completed(hosts: Hosts, run_dir: Path, overrides: Sequence[str], delay_ms: float) -> dict[str, Any]:
    """Run to the end at one delay and return the summary. Raises Failed if the run fails."""
    shutil.rmtree(run_dir, ignore_errors=True)
    hosts.set_delay(delay_ms)
    with started(hosts, run_dir, overrides) as follow:
        follow.until_done()
    summary: dict[str, Any] = json.loads((run_dir / "run" / "summary.json").read_text(encoding="utf-8"))
    return summary


def settling(cell: Cell) -> int:
    """Return the steps until every frame sent at the last delay has been used."""
    window = next((int(o.partition("=")[2]) for o in cell.overrides if o.startswith("depth.max_in_flight=")), 1)
    return 2 * window + EVERY


@contextmanager
def started(hosts: Hosts, run_dir: Path, overrides: Sequence[str]) -> Iterator[Follower]:
    """Start the processes of a run; at the end of the block stop them, and kill those that do not stop."""
    peers = ",".join(f"{hosts.address(k)}:{PORT}" for k in range(hosts.count))
    method = next(o.partition("=")[2] for o in overrides if o.startswith("depth="))
    links = () if method in SYNCHRONOUS else (f"transport.peers=[{peers}]",)
    run_dir.mkdir(parents=True)
    processes = []
    try:
        for rank in range(hosts.count):
            with (run_dir / f"host-{rank}.log").open("w") as log:
                command = [sys.executable, "-m", "workers", *overrides, *links, f"hydra.run.dir={run_dir}/run"]
                environment = {
                    **os.environ, "RANK": str(rank), "WORLD_SIZE": str(hosts.count), "LOCAL_WORLD_SIZE": "1",
                    "MASTER_ADDR": hosts.address(0), "MASTER_PORT": str(PORT + 1),
                }  # fmt: skip
                processes.append(
                    subprocess.Popen(hosts.command(rank, command), env=environment, stdout=log, stderr=log)
                )
        yield Follower(run_dir, len(processes), processes)
    finally:
        hosts.set_delay(0.0)
        for process in processes:
            process.send_signal(signal.SIGTERM)  # no effect on one that has ended
        deadline = time.monotonic() + 30
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Follower:
    """Read the training records of a run while it writes them."""

    def __init__(self, run_dir: Path, stages: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self.run_dir, self.stages, self.processes = run_dir, stages, processes
        self.records: list[list[Record]] = [[] for _ in range(stages)]
        self._read = 0

    def wait(self, until: Any, what: str) -> None:
        """Read records until `until()` holds. Raises Failed if the run ends first, or no record arrives for too
        long."""
        moved = time.monotonic()
        while not until():
            moved = time.monotonic() if self._look() else moved
            if any(process.poll() is not None for process in self.processes):
                raise Failed(f"{self.run_dir}: the run ended before {what}: {self._last_lines()}")
            if time.monotonic() - moved > START_S:
                raise Failed(f"{self.run_dir}: no record for {START_S:g} s while waiting for {what}")
            time.sleep(0.05)

    def latest(self) -> int:
        """Return the last step that all stages have recorded."""
        return min((stage[-1]["step"] if stage else 0) for stage in self.records)

    def cpu_s(self) -> list[float]:
        """Return the seconds of a core that each stage has used so far."""
        fields = [Path(f"/proc/{p.pid}/stat").read_text().rpartition(")")[2].split() for p in self.processes]
        return [(int(each[11]) + int(each[12])) / os.sysconf("SC_CLK_TCK") for each in fields]

    def until_done(self) -> None:
        """Wait for the end of all processes. Raises Failed if one failed."""
        codes = [process.wait() for process in self.processes]
        if any(codes):
            raise Failed(f"{self.run_dir}: {self._last_lines()}")

    def _look(self) -> bool:
        file = self.run_dir / "run" / "metrics.jsonl"
        if not file.is_file():
            return False
        with file.open("rb") as lines:
            lines.seek(self._read)
            whole, newline, _ = lines.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for record in map(json.loads, whole.splitlines()):
            if record["kind"] == "train":
                self.records[record["stage"]].append(record)
        return bool(whole)

    def _last_lines(self) -> str:
        logs = [
            file.read_text(errors="replace").strip().splitlines() for file in sorted(self.run_dir.glob("host-*.log"))
        ]
        return "; ".join(lines[-1] for lines in logs if lines)


def watch(hosts: Hosts, follow: Follower, phase: Phase, in_flight: int) -> Row:
    """Measure one delay, after the frames of the last delay have been used."""
    begun, moment = follow.latest(), time.monotonic()
    follow.wait(lambda: follow.latest() >= begun + in_flight + EVERY and time.monotonic() - moment > 0.5, "it settled")
    first, before, used = follow.latest(), sent_bytes(hosts), follow.cpu_s()
    moment = time.monotonic()
    follow.wait(
        lambda: follow.latest() >= first + max(phase.steps, EVERY) and time.monotonic() - moment >= phase.seconds,
        f"{phase.steps} steps at {phase.delay_ms:g} ms",
    )
    seconds, after = time.monotonic() - moment, sent_bytes(hosts)
    shares = [(now - then) / seconds for now, then in zip(follow.cpu_s(), used, strict=True)]
    last = follow.latest()
    stages = [[r for r in records if first <= r["step"] <= last] for records in follow.records]
    return figures(stages, (after - before) / seconds, shares)


def sent_bytes(hosts: Hosts) -> int:
    """Return the bytes that all hosts have sent so far, headers and TCP acknowledgements included."""
    total = 0
    for host in range(hosts.count):
        table = subprocess.run(
            hosts.command(host, ["cat", "/proc/net/dev"]), check=True, capture_output=True, text=True
        )
        line = next(line for line in table.stdout.splitlines() if line.strip().startswith(f"{DEVICE}:"))
        total += int(line.partition(":")[2].split()[8])
    return total


def figures(stages: Sequence[Sequence[Record]], bytes_per_s: float, cpu: Sequence[float]) -> Row:
    """Return the figures of records of the same steps, by stage; `cpu` is the cores that each stage used."""
    found: list[dict[str, Any]] = []
    for records in stages:
        start, end = records[0], records[-1]
        wall = end["wall_s"] - start["wall_s"]
        late = [r["staleness"] for r in records[1:] if r.get("staleness") is not None]
        found.append({
            "rate": (end["step"] - start["step"]) / wall,
            "busy": (end["busy"] * end["wall_s"] - start["busy"] * start["wall_s"]) / wall,
            "staleness": statistics.fmean(late) if late else None,
            "in_flight": max(r.get("in_flight") or 0 for r in records[1:]),
        })  # fmt: skip
    rate = statistics.fmean(stage["rate"] for stage in found)
    return {
        "updates_per_s": rate,
        "busy": [stage["busy"] for stage in found],
        "staleness": [stage["staleness"] for stage in found],
        "in_flight": [stage["in_flight"] for stage in found],
        "bytes_per_step": bytes_per_s / rate,
        "cpu_ms": [1000 * share / rate for share in cpu],
        "steps": stages[0][-1]["step"] - stages[0][0]["step"],
    }
