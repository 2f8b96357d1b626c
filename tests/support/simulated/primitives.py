"""Simulated `threading`, `queue` and `time`, with what the links use of them."""

from __future__ import annotations

import queue
from collections import deque
from typing import Any

from tests.support.simulated.scheduler import Killed, Scheduler, Task, Waiters


class Lock:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._held, self._waiters = scheduler, False, Waiters(scheduler)

    def acquire(self) -> None:
        self._scheduler.step_aside()
        if self._scheduler.over:
            raise Killed
        while self._held:
            self._waiters.wait()
        self._held = True

    def release(self) -> None:
        self._held = False
        self._waiters.wake()
        self._scheduler.step_aside()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class Event:
    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler, self._set, self._waiters = scheduler, False, Waiters(scheduler)

    def set(self) -> None:
        self._set = True
        self._waiters.wake_all()
        self._scheduler.step_aside()

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        if not self._set:
            self._waiters.wait(timeout)
        return self._set


class Queue:
    """`queue.SimpleQueue`, and a bounded `queue.Queue`."""

    def __init__(self, scheduler: Scheduler, most: int = 0) -> None:
        self._scheduler, self._most = scheduler, most
        self._items: deque[Any] = deque()
        self._waiters = Waiters(scheduler)

    def put(self, item: object) -> None:
        self.put_nowait(item)
        self._scheduler.step_aside()

    def put_nowait(self, item: object) -> None:
        if 0 < self._most <= len(self._items):
            raise queue.Full
        self._items.append(item)
        self._waiters.wake()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        deadline = None if timeout is None else self._scheduler.now + timeout
        while not self._items:
            left = None if deadline is None else deadline - self._scheduler.now
            if not block or (left is not None and left <= 0) or not self._waiters.wait(left):
                if self._items:
                    break
                raise queue.Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)


class Threading:
    """Stands for the module `threading`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def Lock(self) -> Lock:  # the names of the module
        return Lock(self._scheduler)

    def Event(self) -> Event:
        return Event(self._scheduler)

    def current_thread(self) -> Task:
        return self._scheduler.running()


class Queues:
    """Stands for the module `queue`."""

    Empty, Full = queue.Empty, queue.Full

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def SimpleQueue(self) -> Queue:
        return Queue(self._scheduler)

    def Queue(self, most: int = 0) -> Queue:
        return Queue(self._scheduler, most)


class Time:
    """Stands for the module `time`."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.sleep = scheduler.sleep

    def monotonic(self) -> float:
        return self._scheduler.now
