"""Links between processes over torch.distributed: a group of two for each edge.

    torch_distributed_connect (stage k-1) ── hello ──> store of TorchDistributedListener (stage k)
                                          <── answer ──
                                          <── group ──>

The stages exchange handshakes through the store of the listening stage. Only stages that agree make a group, and with
NCCL two more, which carry activations and gradients.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # it has one

from dni.errors import ConfigError, HandshakeRefused, PeerTimeout, WireError, WorkerLost
from workers.comm.address import UNIX, check_address
from workers.comm.codec import decode, encode
from workers.comm.frame import Frame, Handshake, Kind, agree
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.process_link import DEFAULT_SETTINGS, Accepting, LinkSettings
from workers.comm.transports.torch_distributed.at_exit import abandon_at_exit
from workers.comm.transports.torch_distributed.backends import Groups, Pairs, agree_on_backend
from workers.comm.transports.torch_distributed.device_pair import MakeGroup
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.gloo import FOREVER, error_text, local_address_towards
from workers.comm.transports.torch_distributed.store import join_store, open_store
from workers.system.background import background

log = logging.getLogger(__name__)

_CLIENTS = "clients"  # key of the number of clients; the keys of a client begin with its number
_REFUSED = b"refused:"


def torch_distributed_connect(
    address: str,
    handshake: Handshake,
    settings: LinkSettings = DEFAULT_SETTINGS,
    *,
    device_group: MakeGroup | None = None,
) -> ChannelEnd:
    """Connect to the stage that listens at `address` ("host:port"); return the upstream end. The link is plaintext.

    The listener may start later, within `settings.timeout_s`. `device_group` makes the groups (`nccl_group`) that
    carry activations and gradients from device to device; None: gloo carries everything.

    Raises as `grpc_connect`.
    """
    host = _check(address, settings.insecure)
    peer, timeout_s = f"stage {handshake.stage + 1} at {address}", settings.timeout_s

    def open_link() -> ChannelEnd:
        port = int(address.rpartition(":")[2])
        pair, device_pair = _rendezvous(host, port, handshake, timeout_s, Groups(device_group, settings.device))
        return TorchDistributedEnd(pair, handshake.stage + 1, address, settings, device_pair)

    try:
        return _with_timeout(open_link, timeout_s)
    except (RuntimeError, OSError) as error:  # most errors of torch are RuntimeErrors
        raise PeerTimeout(
            f"stage {handshake.stage}: no answer from {peer} within {timeout_s:g} s; is it running there? "
            f"({error_text(error)})"
        ) from None


class TorchDistributedListener(Accepting):
    """Accepts the connection of the previous stage, as `GrpcListener`, but without encryption.

    `address` is the address to connect to, "host:port".
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        handshake: Handshake,
        settings: LinkSettings = DEFAULT_SETTINGS,
        device_group: MakeGroup | None = None,
    ) -> None:
        """Listen at `bind`; port 0 means any free port. `device_group` as in `torch_distributed_connect`.

        Raises ConfigError if `bind` is taken, impossible or not allowed.
        """
        host, timeout_s = _check(bind, settings.insecure), settings.timeout_s
        super().__init__(handshake)
        self._settings, self._groups = settings, Groups(device_group, settings.device)
        self._ends: list[ChannelEnd] = []
        self._closed = False
        try:
            self._store: Any = open_store(host, int(bind.rpartition(":")[2]), timeout_s)
        except (OSError, RuntimeError):
            raise ConfigError(f"stage {handshake.stage}: cannot listen at {bind}; choose a free port") from None
        # A store object that waits blocks other threads, so use a second one.
        self._client_store: Any = join_store(host, self._store.port, timeout_s)
        self.address = f"{host}:{self._store.port}"
        self._thread = background("dni-listener", self._listen, self.died)
        self._thread.start()
        abandon_at_exit(self)

    def close(self) -> None:
        """Close every accepted end (delivering its sent frames) and stop listening. Idempotent."""
        if self._closed:
            return
        self.abandon()
        for end in self._ends:
            end.close()
        self._accepted.put(WorkerLost(f"the listener at {self.address} is closed"))

    def abandon(self) -> None:
        """Stop listening; do not close accepted ends."""
        if not self._closed:
            self._closed = True
            with suppress(RuntimeError):
                self._client_store.set(f"{self._client_store.add(_CLIENTS, 1)}/hello", b"")
            self._thread.join(self._settings.timeout_s)

    def _listen(self) -> None:
        """Serve clients, one after another."""
        number = 1
        while True:
            self._store.wait([f"{number}/hello"], FOREVER)
            if self._closed:
                return
            try:
                self._serve(number)
            except (WireError, RuntimeError, OSError, ValueError) as error:
                self._refuse(number, error)
            number += 1

    def _serve(self, number: int) -> None:
        peer_handshake = _read_hello(self._store.get(f"{number}/hello"))
        agree(client=peer_handshake, server=self._handshake)
        agree_on_backend(self._store.get(f"{number}/route").decode(), self._groups.route, self._handshake.stage)
        where = self._store.get(f"{number}/from").decode()
        self._store.set(f"{number}/answer", _hello(self._handshake))
        own_address = local_address_towards(where, self._store.port)
        prefix_store = PrefixStore(str(number), self._client_store)
        pair, device_pair = self._groups.make(prefix_store, 1, own_address, self._settings.timeout_s)
        end = TorchDistributedEnd(pair, peer_handshake.stage, where, self._settings, device_pair)
        self._ends.append(end)
        self._accepted.put(end)

    def _refuse(self, number: int, error: Exception) -> None:
        log.warning("stage %d refused a client: %s", self._handshake.stage, error)
        self._store.set(f"{number}/answer", _REFUSED + str(error).encode())
        if isinstance(error, HandshakeRefused):
            self._accepted.put(error)


def _rendezvous(host: str, port: int, mine: Handshake, timeout_s: float, groups: Groups) -> Pairs:
    """Shake hands with the listening stage and make groups with it."""
    store: Any = join_store(host, port, timeout_s)  # the stubs accept no bytes
    number, own_address = store.add(_CLIENTS, 1), local_address_towards(host, port)
    store.set(f"{number}/from", own_address)
    store.set(f"{number}/route", groups.route)
    store.set(f"{number}/hello", _hello(mine))
    answer = store.get(f"{number}/answer")
    if answer.startswith(_REFUSED):
        raise HandshakeRefused(answer.removeprefix(_REFUSED).decode())
    agree(client=mine, server=_read_hello(answer))
    return groups.make(PrefixStore(str(number), store), 0, own_address, timeout_s)


def _hello(mine: Handshake) -> bytes:
    return encode(Frame(Kind.HANDSHAKE, stage=mine.stage, handshake=mine))


def _read_hello(data: bytes) -> Handshake:
    frame = decode(data)
    if frame.handshake is None:
        raise HandshakeRefused(f"the other side began with a {frame.kind.name} frame, not with a handshake")
    return frame.handshake


def _check(address: str, insecure: bool) -> str:
    """Return the host of an address. Raises ConfigError for an address that is not allowed."""
    if address.startswith(UNIX):
        raise ConfigError(f"address {address!r}: transport=torch_distributed has no unix sockets: use 127.0.0.1:0")
    return check_address(address, insecure)


def _with_timeout(connect: Callable[[], ChannelEnd], timeout_s: float) -> ChannelEnd:
    """Run `connect` in a thread, as stores may wait longer than their timeout.

    Return its result or raise its error; raise RuntimeError after `timeout_s` seconds.
    """
    results: queue.SimpleQueue[ChannelEnd | Exception] = queue.SimpleQueue()
    timed_out = threading.Event()

    def run() -> None:
        try:
            item: ChannelEnd | Exception = connect()
        except Exception as error:
            item = error
        results.put(item)
        if timed_out.is_set() and isinstance(item, TorchDistributedEnd):
            item.abandon()

    background("dni-connect", run, results.put).start()
    try:
        item = results.get(timeout=timeout_s)
    except queue.Empty:
        timed_out.set()
        raise RuntimeError("no answer") from None
    if isinstance(item, Exception):
        raise item
    return item
