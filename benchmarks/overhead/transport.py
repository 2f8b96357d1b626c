"""Throughput of tensors between processes over the project's links and other channels, as shares of raw TCP.

Every channel has two processes of its own. In every repeat each channel in turn sends tensors of every size in one
direction (throughput) and there and back one at a time (round trip). QUICK=1 sends a few of them once, whose figures
mean nothing, and writes to outputs/bench-transport/ instead of benchmarks/results/.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness.environment import RESULTS, bar, environment, write
from benchmarks.overhead.channels import CHANNELS, TIMEOUT_S, WINDOW, Channel
from workers.system.malloc import keep_memory

QUICK = os.environ.get("QUICK") == "1"
REPEATS = 1 if QUICK else 11
OUT = Path("outputs/bench-transport") if QUICK else RESULTS

RAW, PLAIN = "raw TCP", "protobuf bytes over gRPC"
GRPC, UNIX, SHARED = "gRPC", "gRPC, unix socket", "gRPC, shared memory"
#: The bars: shares of raw TCP's one-way speed.
GOALS = {(GRPC, "1 MB"): 0.35, (GRPC, "16 MB"): 0.35, (SHARED, "1 MB"): 0.5, (SHARED, "16 MB"): 0.5}
#: name, bytes of a float32 tensor, number sent one way, number sent there and back
SIZES: tuple[tuple[str, int, int, int], ...] = (
    ("4 KB", 2**12, 500, 100), ("64 KB", 2**16, 250, 50), ("1 MB", 2**20, 50, 10), ("16 MB", 2**24, 8, 2),
)  # fmt: skip
NAMES = [RAW, PLAIN, GRPC, SHARED] if QUICK else [*CHANNELS]
if QUICK:
    SIZES = tuple((name, nbytes, max(2, count // 20), 2) for name, nbytes, count, _ in SIZES)
#: A receiver acknowledges after so many tensors.
ACKNOWLEDGED = WINDOW // 2

Times = tuple[float, float]  #: seconds per tensor one way, seconds there and back
console = Console(width=max(Console().width, 120))


def main() -> None:
    """Measure, print the tables, write the results, print the bars."""
    with ExitStack() as opened, tempfile.TemporaryDirectory() as folder:
        pairs = {name: opened.enter_context(Pair.started(name, Path(folder) / str(k))) for k, name in enumerate(NAMES)}
        repeat(pairs)  # warm-up: allocates memory and starts threads
        repeats = []
        for n in range(REPEATS):
            console.print(f"repeat {n + 1} of {REPEATS}", highlight=False)
            repeats.append(repeat(pairs))
    rows = [row(name, repeats) for name in NAMES]
    show(rows)
    write(OUT / "transport.json", {"repeats": REPEATS, "environment": environment(), "rows": rows, "bars": bars(rows)})


def repeat(pairs: dict[str, Pair]) -> dict[str, list[Times]]:
    """Measure every size over every channel in turn; return times by channel, in the order of the sizes."""
    found: dict[str, list[Times]] = {name: [] for name in pairs}
    for _, *size in SIZES:
        for name, pair in pairs.items():
            found[name].append(pair.measure(*size))
    return found


class Pair:
    """The two processes of a channel."""

    def __init__(self, commands: list[Connection]) -> None:
        self.commands = commands

    @classmethod
    @contextmanager
    def started(cls, name: str, folder: Path) -> Iterator[Pair]:
        """Start and connect both processes; end them with the block."""
        folder.mkdir()
        context = get_context("spawn")
        ours, theirs = zip(*(context.Pipe() for _ in range(2)), strict=True)
        processes = [context.Process(target=serve, args=(name, k, folder, theirs[k]), daemon=True) for k in range(2)]
        for process in processes:
            process.start()
        pair = cls(list(ours))
        ours[0].send(pair.answer(1))  # the address
        for k in range(2):
            pair.answer(k)
        yield pair
        for k in range(2):
            ours[k].send(None)
        for process in processes:
            process.join()

    def measure(self, nbytes: int, count: int, trips: int) -> Times:
        """Send tensors of `nbytes` bytes: `count` one way and `trips` there and back."""
        for end in self.commands:
            end.send((nbytes // 4, count, trips))
        times: Times = self.answer(0)
        self.answer(1)
        return times

    def answer(self, k: int) -> Any:
        """Return the next message of process k."""
        if not self.commands[k].poll(TIMEOUT_S):
            raise TimeoutError(f"process {k} did not answer within {TIMEOUT_S:g} s")
        return self.commands[k].recv()


def serve(name: str, k: int, folder: Path, commands: Connection) -> None:
    """Run process k of a channel."""
    keep_memory()  # as in every stage
    torch.set_num_threads(1)
    channel = CHANNELS[name]()
    if k:
        commands.send(channel.listen(folder))
        channel.accept()
    else:
        channel.connect(commands.recv())
    commands.send("ready")
    for size, count, trips in iter(commands.recv, None):
        commands.send((ask if k == 0 else echo)(channel, size, count, trips))
    channel.close()


def ask(channel: Channel, size: int, count: int, trips: int) -> Times:
    """Send and measure, in process 0."""
    tensor, taken = torch.randn(size, generator=torch.Generator().manual_seed(0)), []
    started, confirmed = time.perf_counter(), 0
    for sent in range(count):
        if channel.credit and sent - confirmed >= WINDOW:
            channel.receive(1)
            confirmed += ACKNOWLEDGED
        channel.send(tensor)
    while confirmed < count:
        confirmed = confirmed + ACKNOWLEDGED if channel.credit and confirmed + ACKNOWLEDGED < count else count
        channel.receive(1)
    one_way = (time.perf_counter() - started) / count
    for _ in range(trips):
        started = time.perf_counter()
        channel.send(tensor)
        arrived = channel.receive(size)
        taken.append(time.perf_counter() - started)
    if not torch.equal(arrived, tensor):
        raise AssertionError(f"{type(channel).__name__} does not return the tensor it got")
    return one_way, statistics.median(taken)


def echo(channel: Channel, size: int, count: int, trips: int) -> None:
    """Receive and send back, in process 1."""
    for received in range(1, count + 1):
        channel.receive(size)
        if received == count or (channel.credit and received % ACKNOWLEDGED == 0):
            channel.send(torch.ones(1))
    for _ in range(trips):
        channel.send(channel.receive(size))


def row(name: str, repeats: list[dict[str, list[Times]]]) -> dict[str, Any]:
    """Return a channel's medians by size; shares are those within one repeat."""
    sizes = []
    for k, (size, nbytes, *_) in enumerate(SIZES):
        mine, raw = ([each[channel][k] for each in repeats] for channel in (name, RAW))
        sizes.append({
            "size": size,
            "mb_per_s": nbytes / statistics.median(one_way for one_way, _ in mine) / 1e6,
            "share": statistics.median(r[0] / m[0] for m, r in zip(mine, raw, strict=True)),
            "trip_s": statistics.median(trip for _, trip in mine),
            "trip_share": statistics.median(r[1] / m[1] for m, r in zip(mine, raw, strict=True)),
        })  # fmt: skip
    return {"name": name, "sizes": sizes}


def lines(rows: list[dict[str, Any]]) -> list[tuple[list[str], list[list[str]]]]:
    """Return heads and rows of both tables; in brackets the share of raw TCP's speed."""
    sizes = [at["size"] for at in rows[0]["sizes"]]
    tables = (("one way, MB/s", "mb_per_s", 1, "share"), ("there and back, µs", "trip_s", 1e6, "trip_share"))
    return [
        ([head, *sizes], [
            [row["name"], *(f"{at[value] * unit:,.0f} ({at[share]:.2f})" for at in row["sizes"])] for row in rows
        ])
        for head, value, unit, share in tables
    ]  # fmt: skip


def show(rows: list[dict[str, Any]]) -> None:
    """Print both tables."""
    for heads, cells in lines(rows):
        table = Table(*heads, title="in brackets: share of raw TCP's speed")
        for line in cells:
            table.add_row(*line)
        console.print(table)


def bars(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return every share of the project's links, and the bars."""
    speed = {(line["name"], at["size"]): at for line in rows for at in line["sizes"]}
    found = []
    for name in [name for name in (GRPC, UNIX, SHARED) if name in NAMES]:
        for size, *_ in SIZES:
            share, goal = speed[name, size]["share"], GOALS.get((name, size))
            found.append(bar(f"{name}, {size}: share of raw TCP", share, goal, None if goal is None else share >= goal))
            over = speed[name, size]["mb_per_s"] / speed[PLAIN, size]["mb_per_s"]
            found.append(bar(f"{name}, {size}: over {PLAIN}", over, 1.0, over >= 1.0))
    return found


if __name__ == "__main__":
    main()
