"""A simulated network between simulated processes: delays, congestion, cuts, outages and replayed connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.support.simulated.scheduler import Process, Scheduler, Waiters


@dataclass(frozen=True)
class Weather:
    """What the network does to connections; times are in simulated seconds."""

    delay_s: float = 0.01  #: longest delay of a message, without congestion
    connect_s: float = 0.1  #: longest time to make a connection, which may overtake an earlier attempt
    room: int = 4  #: messages on their way in one direction; further ones wait at the sender
    stall_s: float = 0.0  #: longest congestion
    stalls: float = 0.0  #: probability that a message meets a congestion
    cuts: int = 0  #: connections that are cut
    cut_within: int = 20  #: messages, in both directions, after which a connection is cut at the latest
    outage_s: float = 0.0  #: longest time after a cut in which no connection can be made
    silence_s: float = 0.0  #: longest time until an end learns of a cut
    dies_at: float | None = None  #: from then on there is no network at all
    replays: float = 0.0  #: probability that what began a connection is sent once more later, by a stranger


class Side(Protocol):
    """One end of a connection."""

    process: Process

    def arrived(self, item: Any) -> None:
        """Take the next item from the other end."""

    def lost(self) -> None:
        """Learn that the connection is gone."""


class Wire:
    """One direction of a connection: items arrive in order, each after a delay of its own."""

    def __init__(self, network: Network, connection: Connection, to: Side) -> None:
        self._network, self._connection, self._to = network, connection, to
        self._room = Waiters(network.scheduler)
        self._newest_at = 0.0
        self._moving = 0
        self.is_cut = False
        self.arrived: list[Any] = []  #: all that has arrived

    def message(self, data: bytes) -> None:
        """Send a message."""
        self._network.sent[data] += 1
        self.put(("message", data))

    def put(self, item: object) -> None:
        """Send an item; it is lost if the connection is cut before it arrives."""
        scheduler = self._network.scheduler
        self._newest_at = max(self._newest_at, scheduler.now + self._network.draw_delay())
        self._moving += 1
        scheduler.at(self._newest_at, lambda: self._arrive(item))
        self._connection.count()

    def wait_for_room(self) -> None:
        """Wait while too many items are on their way."""
        while self._moving >= self._network.weather.room and not self.is_cut:
            self._room.wait()

    def cut(self) -> None:
        self.is_cut = True
        self._room.wake_all()

    def _arrive(self, item: object) -> None:
        if not self.is_cut:
            self._moving -= 1
            self._room.wake()
            self.arrived.append(item)
            self._to.arrived(item)
            self._connection.count()


class Connection:
    """A connection between two sides, which may be cut at any message."""

    def __init__(self, network: Network, client: Side, server: Side) -> None:
        self._network, self._sides = network, (client, server)
        self.down, self.up = Wire(network, self, server), Wire(network, self, client)
        self._left = network.draw_life()

    @property
    def answered(self) -> bool:
        """Whether the client has the handshake of the listener."""
        return any(kind == "message" for kind, *_ in self.up.arrived)

    def count(self) -> None:
        """Cut the connection if its time has come."""
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self.cut()

    def cut(self) -> None:
        """Lose what is on its way; the two sides learn of it each at a time of its own."""
        if self.down.is_cut:
            return
        self.down.cut()
        self.up.cut()
        self._network.has_cut()
        for side in self._sides:
            self._network.scheduler.after(self._network.draw_silence(), side.lost)


class _Stranger:
    """Somebody who is no stage, and understands no answer."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def arrived(self, item: Any) -> None: ...

    def lost(self) -> None: ...


class Network:
    """Knows who listens where, and draws what happens to connections."""

    def __init__(self, scheduler: Scheduler, weather: Weather) -> None:
        self.scheduler, self.weather = scheduler, weather
        self._listeners: dict[str, tuple[Process, Callable[..., Side]]] = {}
        self._connections: list[Connection] = []
        self._up_at = 0.0
        self.sent: Counter[bytes] = Counter()  #: messages, by their bytes
        self._cuts_left = weather.cuts
        self.cuts = self.stalls = self.replays = self.connections = 0  #: how often each happened
        if weather.dies_at is not None:
            scheduler.after(weather.dies_at, self._die)

    def listen(self, address: str, process: Process, accept: Callable[..., Side]) -> None:
        """Let `accept` make the sides of connections to `address`."""
        self._listeners[address] = process, accept

    def stop_listening(self, address: str) -> None:
        self._listeners.pop(address, None)

    def reaches(self, address: str) -> bool:
        """Return whether a connection can be made now."""
        process, _ = self._listeners.get(address, (None, None))
        return process is not None and process.alive and self.scheduler.now >= self._up_at

    def connect(self, address: str, client: Side) -> Connection:
        """Connect to a listener that `reaches` has found."""
        _, accept = self._listeners[address]
        self.connections += 1
        self._connections.append(made := accept(client))
        draw = self.scheduler.random
        if draw.random() < self.weather.replays:
            self.scheduler.after(draw.uniform(1, 20), lambda: self._replay(address, made))
        return made

    def kill(self, process: Process) -> None:
        """End a process; the connections to it are cut."""
        self.scheduler.kill(process)
        for each in list(self._connections):
            if any(side.process is process for side in each._sides):
                each.cut()

    @property
    def sent_again(self) -> int:
        """Number of messages that were sent more than once."""
        return sum(count > 1 for count in self.sent.values())

    def draw_delay(self) -> float:
        weather, draw = self.weather, self.scheduler.random
        if draw.random() < weather.stalls:
            self.stalls += 1
            return draw.uniform(0, weather.stall_s)
        return draw.uniform(0, weather.delay_s)

    def draw_silence(self) -> float:
        draw = self.scheduler.random
        return draw.uniform(0, self.weather.silence_s) if draw.random() < 0.5 else draw.uniform(0, 0.02)

    def draw_life(self) -> int | None:
        """Return after how many sent and arrived messages a new connection is cut; None: never."""
        if not self._cuts_left:
            return None
        self._cuts_left -= 1
        return self.scheduler.random.randint(1, self.weather.cut_within)

    def has_cut(self) -> None:
        self.cuts += 1
        self._up_at = max(self._up_at, self.scheduler.now + self.scheduler.random.uniform(0, self.weather.outage_s))

    def _replay(self, address: str, recorded: Connection) -> None:
        """Let a stranger repeat what began a connection, if the listener answered it."""
        if recorded.answered:
            self.replays += 1
            self.speak(address, recorded.down.arrived[: self.scheduler.random.randint(1, 4)])

    def speak(self, address: str, items: list[Any]) -> None:
        """Let a stranger connect, if somebody listens, and send items."""
        if self.reaches(address):
            _, accept = self._listeners[address]
            said = accept(_Stranger(Process("stranger")))
            for item in items:
                said.down.put(item)

    def _die(self) -> None:
        self._up_at = float("inf")
        for each in list(self._connections):
            each.cut()
