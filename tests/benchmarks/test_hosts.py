"""Several hosts emulated on one machine: delays of packets, complete data, and clean-up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.network import namespaces
from benchmarks.network.hosts import Hosts, HostsUnavailable
from tests.support.commands import alive, children, command_line, wait_for

ROOT = Path(__file__).parents[2]
needs_hosts = pytest.mark.skipif(namespaces.why_not() is not None, reason=str(namespaces.why_not()))

#: A server that echoes its input, or with `sum` sends a digest at the end; it prints a line when it listens.
SERVER = """
import hashlib, socket, sys
with socket.create_server(("", 7000)) as server:
    print(socket.gethostname(), flush=True)
    connection, _ = server.accept()
    digest = hashlib.sha256()
    while data := connection.recv(1 << 20):
        digest.update(data)
        if sys.argv[1] == "echo":
            connection.sendall(data)
    connection.sendall(digest.hexdigest().encode())
"""
#: For every line on stdin, the shortest of three round trips, in ms.
PING = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for line in sys.stdin:
        took = []
        for _ in range(3):
            began = time.monotonic()
            connection.sendall(b"x")
            assert connection.recv(1) == b"x"
            took.append(1000 * (time.monotonic() - began))
        print(min(took), flush=True)
"""
SEND = """
import hashlib, random, socket, sys
data = random.Random(0).randbytes(20_000_000)
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(64, socket.MSG_WAITALL).decode() == hashlib.sha256(data).hexdigest()
"""


@contextmanager
def python(hosts: Hosts, host: int, program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start a Python program on a host, with pipes."""
    command = hosts.command(host, [sys.executable, "-I", "-c", program, *arguments])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return float(line(process))


def network() -> str:
    """Return the network devices and addresses of this machine."""
    return subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True).stdout


@needs_hosts
def test_a_round_trip_takes_two_delays_which_may_change_on_the_way() -> None:
    before = network()
    with Hosts(3, delay_ms=20) as hosts:
        assert network() == before
        with python(hosts, 2, SERVER, "echo") as server:
            assert line(server) == "host2"
            with python(hosts, 0, PING, "host2") as client:
                for delay_ms in (20.0, 0.0, 60.0, 5.0):
                    hosts.set_delay(delay_ms)
                    assert 2 * delay_ms <= ask(client) < 2 * delay_ms + 5, delay_ms
    assert network() == before


@needs_hosts
@pytest.mark.parametrize("delay_ms", [20.0, None])
def test_twenty_megabytes_arrive_whole(delay_ms: float | None) -> None:
    with Hosts(2, delay_ms) as hosts, python(hosts, 0, SERVER, "sum") as server:
        assert line(server) == "host0"
        with python(hosts, 1, SEND, hosts.address(0)) as client:
            assert client.wait(30) == 0


def lines_of(pid: int) -> list[int]:
    """Return the delay lines that a process has started, without its other children."""
    return [child for child in children(pid) if any(word.endswith("delay_line.py") for word in command_line(child))]


@needs_hosts
def test_closing_hosts_ends_their_processes() -> None:
    with Hosts(2) as hosts:
        (line_pid,) = lines_of(os.getpid())
        kept = subprocess.Popen(hosts.command(1, ["sleep", "1000"]))
        prefix = hosts._prefix
        assert [path.name for path in namespaces.NAMED.glob(f"{prefix}*")] != []
        with pytest.raises(ValueError, match="host 2 must be 0 to 1"):
            hosts.command(2, ["true"])
    assert kept.wait(10) == -signal.SIGKILL
    assert not alive(line_pid)
    assert left_behind(prefix) == []


def left_behind(prefix: str) -> list[str]:
    folders = (namespaces.NAMED, namespaces.FILES)
    return [str(path) for folder in folders if folder.is_dir() for path in folder.glob(f"{prefix}*")]


@needs_hosts
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ended_process_leaves_no_hosts(number: signal.Signals) -> None:
    """After Ctrl-C a process removes its hosts; after SIGKILL the next process removes them."""
    program = (
        "import sys; from benchmarks.network.hosts import Hosts\nwith Hosts(2) as h: print(h._prefix); sys.stdin.read()"
    )
    command = [sys.executable, "-u", "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        prefix = line(process)
        (line_pid,) = lines_of(process.pid)
        assert len(left_behind(prefix)) == 4
        process.send_signal(number)
    wait_for(lambda: not alive(line_pid), "the end of the delay line", 10)
    if number == signal.SIGKILL:
        with Hosts(1):
            pass
    assert left_behind(prefix) == []


@needs_hosts
def test_ended_delay_line_raises() -> None:
    with Hosts(2) as hosts:
        (line_pid,) = lines_of(os.getpid())
        os.kill(line_pid, signal.SIGKILL)
        with pytest.raises(OSError, match="the delay line has ended"):
            hosts.set_delay(5)
    with pytest.raises(ValueError, match="have no delay"), Hosts(1, delay_ms=None) as hosts:
        hosts.set_delay(5)


def test_missing_tools_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(HostsUnavailable, match=r"^network namespaces need root$"):
        Hosts(2)
