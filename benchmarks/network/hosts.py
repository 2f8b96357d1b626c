"""Several machines, emulated on one: network namespaces that are joined by real TCP over links of a set length.

    with Hosts(4, delay_ms=20) as hosts:
        subprocess.Popen(hosts.command(1, ["python", "-m", "workers", ...]))
        hosts.set_delay(50)

Each host has loopback, one device, an address, a name of its own that all others resolve, and a full TCP of Linux. Its
packets cross one process (`delay_line.py`), which holds each for the delay. What is emulated is the link and not the
machine: hosts share processors, memory and files. Links have no limit of bandwidth and lose nothing, and TCP is tuned
to that: it does not slow down after a pause, its buffers hold 64 MB, and as packets are up to 65,000 bytes long, it
begins with 650 KB under way. All this is inside the namespaces; the machine's own network stays as it is.

Needs Linux, root, `ip` and /dev/net/tun (`delay_ms=None`: plain virtual Ethernet with a bridge, without TUN).
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks.network import namespaces
from benchmarks.network.delay_line import DelayLine
from benchmarks.network.namespaces import ip

DEVICE = "link0"
MTU = 65000
BUFFERS = "4096 1048576 67108864"  # at least, at first and at most, in bytes: 64 MB are 320 MB/s at 100 ms one way
KERNEL = {
    "ipv4/tcp_slow_start_after_idle": "0",
    "ipv4/tcp_no_metrics_save": "1",
    "ipv4/tcp_congestion_control": "reno",  # the only one in every kernel; without loss it never slows down
    "ipv4/tcp_rmem": BUFFERS,
    "ipv4/tcp_wmem": BUFFERS,
    "ipv6/conf/all/disable_ipv6": "1",
}


class HostsUnavailable(RuntimeError):
    """This machine cannot emulate several."""


class Hosts:
    """A context manager: the hosts are there inside it, and with all that runs in them gone after it."""

    def __init__(self, count: int, delay_ms: float | None = 0.0) -> None:
        """Args:
        count: how many hosts, 1 to 250.
        delay_ms: how long a packet takes one way; None: a plain bridge, as fast as it goes.

        Raises HostsUnavailable without root, Linux or what else it takes.
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
        """What to start for `arguments` to run on a host, with its network and its name. It is one process, not two."""
        rename = 'echo "$0" > /proc/sys/kernel/hostname; exec "$@"'
        inside = ["ip", "netns", "exec", self._namespace(host), "unshare", "--uts"]
        return [*inside, "sh", "-c", rename, self.name(host), *arguments]

    def address(self, host: int) -> str:
        """The address of a host's device `link0`."""
        return f"10.77.0.{host + 1}"

    def name(self, host: int) -> str:
        """What a host calls itself, and the others it."""
        return f"host{host}"

    def set_delay(self, delay_ms: float) -> None:
        """From now on every packet takes `delay_ms` one way, also those under way."""
        self._delayed().set_delay(delay_ms)

    def unplug(self, host: int) -> None:
        """Cut a host off without a word to the others, as when its cable is pulled."""
        ip("-n", self._namespace(host), "link", "set", DEVICE, "down")

    def plug_in(self, host: int) -> None:
        """Join it again."""
        ip("-n", self._namespace(host), "link", "set", DEVICE, "up")

    def line_cpu_s(self) -> float:
        """Seconds of a processor that the links have used so far."""
        return self._delayed().cpu_s()

    def _delayed(self) -> DelayLine:
        if self._line is None:
            raise ValueError("these hosts have no delay: make them with delay_ms=0, not None, and enter them")
        return self._line

    def _namespace(self, host: int) -> str:
        if not 0 <= host < self.count:
            raise ValueError(f"host {host} is none of 0 to {self.count - 1}")
        return f"{self._prefix}{host}"

    def _make_hosts(self) -> None:
        known = "".join(f"{self.address(k)} {self.name(k)}\n" for k in range(self.count))
        for k in range(self.count):
            namespaces.add(self._namespace(k))
            namespaces.set_kernel(self._namespace(k), KERNEL)
            namespaces.write_hosts(self._namespace(k), f"127.0.0.1 localhost\n{known}")

    def _bridge(self) -> None:
        """A bridge in a namespace of its own, and a pair of virtual Ethernet devices from each host to it."""
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
