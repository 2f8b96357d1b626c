"""The faults: which, when, where, and how each is injected."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.chaos.proxy import Proxy, Way
from benchmarks.chaos.training import HEARTBEAT_S, STAGES, Ended, Training
from workers.comm.transports.grpc.options import METHOD, SERVICE

#: Kinds of faults, and how many of each a full run has.
KINDS = {
    "kill": 6,
    "kill, newest checkpoint torn": 1,
    "kill, newest checkpoint rotten": 1,
    "process paused, short": 6,
    "process paused, long": 2,
    "connection cut": 18,
    "connection cut inside a frame": 9,
    "link stalled, short": 7,
    "link stalled, long": 1,
    "bytes lost": 4,
    "bytes changed": 8,
    "bytes repeated": 4,
    "stranger": 12,
}  # fmt: skip
KILLS = tuple(kind for kind in KINDS if kind.startswith("kill"))

#: Seconds of a fault of these kinds, at least and at most.
SECONDS = {
    "process paused, short": (0.1, 0.8 * HEARTBEAT_S),
    "process paused, long": (2 * HEARTBEAT_S, 3 * HEARTBEAT_S),
    "link stalled, short": (1.0, 2.0),
    "link stalled, long": (10.0, 30.0),
}
QUIET = {False: (1, 6), True: (60, 80)}  # undisturbed steps of the first stage before a fault; True: a kill


@dataclass(frozen=True)
class Fault:
    """A fault: its kind, the stage whose process or whose link from the previous stage has it, seconds, when."""

    kind: str
    stage: int
    seconds: float
    quiet: int  #: steps of the first stage between the recovery from the fault before and this one

    @property
    def kills(self) -> bool:
        """Whether the process of the stage is killed."""
        return self.kind in KILLS


def plan(draw: random.Random, share: float = 1.0) -> list[Fault]:
    """Return the faults of a run in random order: `share` of a full run's of each kind."""
    found = []
    for kind, count in KINDS.items():
        for _ in range(round(share * count)):
            stage = draw.randrange(0 if kind.startswith("process") else 1, STAGES)
            seconds = draw.uniform(*SECONDS.get(kind, (0.0, 0.0)))
            found.append(Fault(kind, stage, seconds, draw.randint(*QUIET[kind in KILLS])))
    draw.shuffle(found)
    return found


def inject(run: Training, fault: Fault, draw: random.Random) -> float:
    """Inject a fault; return when it was over. Raises Ended if the command ends meanwhile."""
    process, stage = run.stages().get(fault.stage), fault.stage
    if process is None:
        raise Ended(f"stage {stage} has no process")
    if fault.kills:
        damage(run.folder, stage, fault.kind)
        process.kill()
        return time.monotonic()
    if fault.kind.startswith("process"):
        process.send_signal(signal.SIGSTOP)
        try:
            run.wait(fault.seconds)
        finally:
            process.send_signal(signal.SIGCONT)
        return time.monotonic()
    proxy = run.board.proxies[stage]
    if fault.kind == "connection cut":
        proxy.cut()
    elif fault.kind.startswith("link"):
        proxy.stall(fault.seconds)
        run.wait(fault.seconds)
    elif fault.kind == "stranger":
        _knock(proxy, draw)
    else:
        _change(run, proxy, fault.kind, draw)
    return time.monotonic()


def damage(folder: Path, stage: int, kind: str) -> None:
    """Tear the newest checkpoint of a stage in two, or change one byte of it, as the fault's kind says."""
    files = sorted(folder.glob(f"checkpoints/step-*/stage-{stage}.safetensors"))
    if not files or kind == "kill":
        return
    data = bytearray(files[-1].read_bytes())
    if kind.endswith("torn"):
        del data[len(data) // 2 :]
    else:
        data[-len(data) // 3] ^= 0x10
    files[-1].write_bytes(data)


def _change(run: Training, proxy: Proxy, kind: str, draw: random.Random) -> None:
    place, count = draw.random(), draw.randint(1, 16)

    def changed(data: bytes) -> tuple[bytes, bool]:
        at = int(place * len(data))
        if kind == "connection cut inside a frame":
            return data[:at], False
        if kind == "bytes repeated":
            return data + data, True
        if kind == "bytes lost":
            return data[:at] + data[at + count :], True
        return data[:at] + bytes([data[at] ^ 1 << count % 8]) + data[at + 1 :], True

    done = proxy.change(draw.choice(list(Way)), changed)
    deadline = time.monotonic() + 10
    while not done.is_set() and time.monotonic() < deadline:
        run.wait(0.01)


def _knock(proxy: Proxy, draw: random.Random) -> None:
    """Connect to the stage as somebody who is none of the run's."""
    assert proxy.target is not None
    draw.choice((_noise, _silence, _call))(proxy.target, draw.randbytes(200))


def _noise(address: tuple[str, int], noise: bytes) -> None:
    with suppress(OSError), socket.create_connection(address, timeout=1) as line:
        line.sendall(noise)
        line.recv(1)


def _silence(address: tuple[str, int], noise: bytes) -> None:
    with suppress(OSError), socket.create_connection(address, timeout=1) as line:
        line.recv(1)


def _call(address: tuple[str, int], noise: bytes) -> None:
    with grpc.insecure_channel(f"{address[0]}:{address[1]}") as channel:
        call: Callable[..., object] = channel.stream_stream(f"/{SERVICE}/{METHOD}", None, None)
        with suppress(grpc.RpcError):
            list(call(iter([noise]), timeout=2))  # type: ignore[call-overload]
