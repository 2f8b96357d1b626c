"""Network namespaces named after their process, which are removed at its end or by the next process that makes some."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from benchmarks.network.delay_line import TUN

NAMED = Path("/run/netns")  #: the namespaces of `ip netns`
FILES = Path("/etc/netns")  #: NAME/hosts below it replaces /etc/hosts in `ip netns exec NAME`
_PREFIX = "dni-"
_CAPABILITIES = 1 << 12 | 1 << 21  #: CAP_NET_ADMIN and CAP_SYS_ADMIN
_serial = count()


def why_not(tun: bool = True) -> str | None:
    """Return the missing requirement for network namespaces, with TUN devices or without; None if all are met."""
    if sys.platform != "linux":
        return "network namespaces need Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if _CAPABILITIES & ~_effective():
        return "network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN, which root lacks in this container"
    for program, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(program) is None:
            return f"network namespaces need the program {program} (package {package})"
    if tun and not os.access(TUN, os.R_OK | os.W_OK):
        return f"links with a delay need TUN devices, and {TUN} is missing"
    return None


def new_prefix() -> str:
    """Return the prefix of a new group of namespaces: process id, start time and group."""
    return f"{_owner(os.getpid())}-{next(_serial)}-"


def add(name: str) -> None:
    """Create a namespace with loopback alone."""
    ip("netns", "add", name)
    ip("-n", name, "link", "set", "lo", "up")


def write_hosts(name: str, text: str) -> None:
    """Write /etc/hosts for the processes in the namespace."""
    while not (FILES / name).is_dir():
        with suppress(FileNotFoundError):  # another process may just have removed the empty folder
            (FILES / name).mkdir(parents=True, exist_ok=True)
    (FILES / name / "hosts").write_text(text)


def set_kernel(name: str, values: dict[str, str]) -> None:
    """Write below the namespace's own /proc/sys/net; skip keys that this kernel lacks."""
    lines = [f"[ ! -e /proc/sys/net/{key} ] || echo {value} > /proc/sys/net/{key}" for key, value in values.items()]
    ip("netns", "exec", name, "sh", "-ec", "\n".join(lines))


def remove(prefix: str) -> None:
    """Kill the processes in the namespaces with this prefix, and remove the namespaces with their files."""
    for name in sorted(name for name in _names() if name.startswith(prefix)):
        try:
            for pid in ip("netns", "pids", name).split():
                _kill(int(pid))
            ip("netns", "delete", name)
        except OSError:
            if (NAMED / name).exists():  # else another process has removed it already
                raise
        shutil.rmtree(FILES / name, ignore_errors=True)
    with suppress(OSError):  # only an empty folder can be removed
        FILES.rmdir()


def remove_leftovers() -> None:
    """Remove the namespaces of processes that have ended."""
    for owner in {"-".join(name.split("-")[:3]) for name in _names() if name.startswith(_PREFIX)}:
        pid = owner.split("-")[1]
        if pid.isdecimal() and _owner(int(pid)) != owner:
            remove(f"{owner}-")


def ip(*arguments: str) -> str:
    """Run `ip ARGUMENTS` and return its output. Raises OSError with its message if it fails."""
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {ended.stderr.strip() or f'exit code {ended.returncode}'}")
    return ended.stdout


def _names() -> set[str]:
    """Return all namespaces, and those with leftover files only."""
    return {path.name for folder in (NAMED, FILES) if folder.is_dir() for path in folder.iterdir()}


def _effective() -> int:
    """Return the capabilities of this process, as a number."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["CapEff"], 16)


def _owner(pid: int) -> str | None:
    """Return a unique name of the process, from its id and start time; None if it has ended."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return f"{_PREFIX}{pid}-{started}"


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
