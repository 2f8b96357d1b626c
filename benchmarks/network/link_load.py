"""Send and receive on one emulated host: `python link_load.py PART ...`; prints one line of JSON.

    pong                           echo what host1 sends
    ping ROUNDS                    on host1: time 64 bytes to host0 and back
    load HOST HOSTS COUNT RATE     exchange COUNT messages, RATE a second, with each neighbour in the row

It runs as a script and needs only the standard library.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time

PORT = 7000
MESSAGE = 65536  #: in bytes; the first eight hold the time of sending
SHORT = bytes(64)


def main(part: str, arguments: list[int]) -> dict[str, object]:
    """Run one part to its end."""
    if part == "pong":
        return pong()
    return ping(*arguments) if part == "ping" else load(*arguments)


def pong() -> dict[str, object]:
    """Echo until the other end has closed."""
    with socket.create_server(("", PORT)) as server, server.accept()[0] as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(len(SHORT), socket.MSG_WAITALL):
            connection.sendall(data)
    return {}


def ping(rounds: int) -> dict[str, object]:
    """Return `took_s`, the time of every round trip."""
    took = []
    with joined(0) as connection:
        for _ in range(rounds):
            began = time.monotonic()
            connection.sendall(SHORT)
            connection.recv(len(SHORT), socket.MSG_WAITALL)
            took.append(time.monotonic() - began)
    return {"took_s": took}


def load(host: int, hosts: int, count: int, rate: int) -> dict[str, object]:
    """Return `took_s`, the time from handing each message to TCP to its complete arrival, and `behind_s`, the most that
    one was sent late."""
    took: list[float] = []
    behind: list[float] = []
    with socket.create_server(("", PORT)) as server:
        links = [joined(host + 1)] if host + 1 < hosts else []
        links += [server.accept()[0]] if host else []
        threads = [threading.Thread(target=receive, args=(link, count, took)) for link in links]
        threads += [threading.Thread(target=send, args=(link, count, rate, behind)) for link in links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for link in links:
            link.close()
    return {"took_s": took, "behind_s": max(behind)}


def send(link: socket.socket, count: int, rate: int, behind: list[float]) -> None:
    """Send messages at a steady rate; a late one does not delay the next."""
    rest = bytes(MESSAGE - 8)
    began = time.monotonic()
    for n in range(count):
        due = began + n / rate
        time.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        behind.append(now - due)
        link.sendall(struct.pack("d", now) + rest)


def receive(link: socket.socket, count: int, took: list[float]) -> None:
    """Receive all messages of a neighbour."""
    message = bytearray(MESSAGE)
    for _ in range(count):
        got = 0
        while got < MESSAGE:
            more = link.recv_into(memoryview(message)[got:])
            if not more:
                return
            got += more
        took.append(time.monotonic() - struct.unpack_from("d", message)[0])


def joined(host: int) -> socket.socket:
    """Connect to a host as soon as it listens."""
    deadline = time.monotonic() + 20
    while True:
        try:
            connection = socket.create_connection((f"host{host}", PORT), timeout=20)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], [int(argument) for argument in sys.argv[2:]])))
