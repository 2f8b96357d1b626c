"""Emulate several machines on one: network namespaces, joined by real TCP over links with a set delay.

    with Hosts(4, delay_ms=20) as hosts:
        subprocess.Popen(hosts.command(1, ["python", "-m", "workers", ...]))
        hosts.set_delay(50)

Each host has loopback, one device, an address, a name that all others resolve, and Linux's full TCP. One process
(`delay_line.py`) holds each packet for the delay. Only the links are emulated: hosts share processors, memory and
files. Links have unlimited bandwidth and lose nothing, and TCP is tuned accordingly: no slow start after a pause,
buffers of 64 MB, and an initial window of 650 KB, because packets are up to 65,000 bytes long. These settings hold
inside the namespaces; the machine's own network is unchanged.

Needs Linux, root, `ip` and /dev/net/tun (`delay_ms=None`: plain virtual Ethernet with a bridge, without TUN).
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.network import namespaces
from benchmarks.network.delay_line import DelayLine
from benchmarks.network.namespaces import ip

DEVICE = "link0"
MTU = 65000
BUFFERS = "4096 1048576 67108864"  # minimum, initial, maximum in bytes: 64 MB allow 320 MB/s at 100 ms one way
KERNEL = {
    "ipv4/tcp_slow_start_after_idle": "0",
    "ipv4/tcp_no_metrics_save": "1",
    "ipv4/tcp_congestion_control": "reno",  # the only one in every kernel; it slows down only after a loss
    "ipv4/tcp_rmem": BUFFERS,
    "ipv4/tcp_wmem": BUFFERS,
    "ipv6/conf/all/disable_ipv6": "1",
}


class HostsUnavailable(RuntimeError):
    """Raised if this machine cannot emulate several."""


class Hosts:
    """A context manager: the hosts exist inside its block; afterwards they are removed with all their processes."""

    def __init__(self, count: int, delay_ms: float | None = 0.0) -> None:
        """Args:
            count: number of hosts, 1 to 250
            delay_ms: one-way delay of a packet; None: a plain bridge without delay

        Raises HostsUnavailable without Linux, root or another requirement.
        """
        missing = namespaces.why_not(tun=delay_ms is not None)
        if missing:
            raise HostsUnavailable(missing)
        if not 1 <= count <= 250:
            raise ValueError(f"{count} hosts: use 1 to 250")
        self.count = count
        self._delay_ms = delay_ms
        self._prefix = namespaces.new_prefix()
        self._line: DelayLine | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Hosts:
        namespaces.remove_leftovers()
        with ExitStack() as stack:
            stack.callback(namespaces.remove, self._prefix)
            self._make_hosts()
            if self._delay_ms is None:
                self._bridge()
            else:
                ends = {self._namespace(k): self.address(k) for k in range(self.count)}
                self._line = DelayLine(DEVICE, ends, self._delay_ms)
                stack.callback(self._line.close)
            for k in range(self.count):
                self._join(k)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def command(self, host: int, arguments: list[str]) -> list[str]:
        """Return the command that runs `arguments` on a host, with its network and name, as one process."""
        rename = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
        inside = ["ip", "netns", "exec", self._namespace(host), "unshare", "--uts"]
        return [*inside, "sh", "-c", rename, self.name(host), *arguments]

    def address(self, host: int) -> str:
        """Return the address of a host's device `link0`."""
        return f"10.77.0.{host + 1}"

    def name(self, host: int) -> str:
        """Return a host's name, for itself and for the others."""
        return f"host{host}"

    def set_delay(self, delay_ms: float) -> None:
        """Set the one-way delay of every packet, also of those in transit."""
        self._delayed().set_delay(delay_ms)

    def unplug(self, host: int) -> None:
        """Cut a host off without notice to the others, as if its cable were pulled."""
        ip("-n", self._namespace(host), "link", "set", DEVICE, "down")

    def plug_in(self, host: int) -> None:
        """Reconnect a host."""
        ip("-n", self._namespace(host), "link", "set", DEVICE, "up")

    def line_cpu_s(self) -> float:
        """Return the seconds of a processor that the links have used so far."""
        return self._delayed().cpu_s()

    def _delayed(self) -> DelayLine:
        if self._line is None:
            raise ValueError("these hosts have no delay: make them with delay_ms=0, not None, and enter them")
        return self._line

    def _namespace(self, host: int) -> str:
        if not 0 <= host < self.count:
            raise ValueError(f"host {host} must be 0 to {self.count - 1}")
        return f"{self._prefix}{host}"

    def _make_hosts(self) -> None:
        known = "".join(f"{self.address(k)} {self.name(k)}\n" for k in range(self.count))
        for k in range(self.count):
            namespaces.add(self._namespace(k))
            namespaces.set_kernel(self._namespace(k), KERNEL)
            namespaces.write_hosts(self._namespace(k), f"127.0.0.1 localhost\n{known}")

    def _bridge(self) -> None:
        """Create a bridge in a namespace of its own, with a pair of virtual Ethernet devices to each host."""
        switch = f"{self._prefix}switch"
        namespaces.add(switch)
        ip("-n", switch, "link", "add", "bridge0", "up", "type", "bridge")
        for k in range(self.count):
            port = f"port{k}"
            ip("-n", self._namespace(k), "link", "add", DEVICE, "type", "veth", "peer", "name", port, "netns", switch)
            ip("-n", switch, "link", "set", port, "master", "bridge0", "up")

    def _join(self, host: int) -> None:
        name = self._namespace(host)
        if self._line is not None:
            ip("-n", name, "link", "set", DEVICE, "mtu", str(MTU), "txqueuelen", "10000")
        ip("-n", name, "address", "add", f"{self.address(host)}/24", "dev", DEVICE)
        self.plug_in(host)
