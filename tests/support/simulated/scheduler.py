"""Deterministic concurrency: tasks in the place of threads, of which one runs at a time, and a simulated clock.

Tasks are greenlets of one thread. A task runs until it waits for something or steps aside at a lock, a queue or an
event. Which task runs next, and whether it steps aside, is drawn from the seed. Time stands still while a task can run,
and then moves to the next timer. A run is therefore a function of its seed.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from itertools import count

from greenlet import GreenletExit, getcurrent, greenlet

#: Probability that a task steps aside where a thread could lose its turn.
_STEPS_ASIDE = 0.2


class Killed(GreenletExit):
    """Unwinds a task whose process is dead, or whose simulation is over."""


class Stuck(AssertionError):
    """No task can run and no timer is left, or the simulated time is up."""


class Process:
    """Tasks that die together."""

    def __init__(self, name: str) -> None:
        self.name, self.alive = name, True


class Task:
    """Stands for a thread."""

    def __init__(self, scheduler: Scheduler, name: str, work: Callable[[], object], process: Process) -> None:
        self.name, self.process = name, process
        self._scheduler, self._work = scheduler, work
        self.over = False
        self.error: BaseException | None = None  #: that ended the work
        self._joining = Waiters(scheduler)
        self.greenlet = greenlet(self._run, scheduler.hub)

    def start(self) -> None:
        self._scheduler.started(self)

    def join(self, timeout: float | None = None) -> None:
        if not self.over:
            self._joining.wait(timeout)

    def is_alive(self) -> bool:
        return not self.over

    def _run(self) -> None:
        try:
            self._work()
        except GreenletExit:
            pass
        except BaseException as error:
            self.error = error
        self.over = True
        self._joining.wake_all()


class _Ticket:
    """One wait of a task."""

    def __init__(self, task: Task) -> None:
        self.task, self.pending, self.woken = task, True, False


class Waiters:
    """Tasks that wait for one thing, first come first served."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._tickets: deque[_Ticket] = deque()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until woken; return False after `timeout` seconds."""
        ticket = _Ticket(self._scheduler.running())
        self._tickets.append(ticket)
        if timeout is not None:
            self._scheduler.after(max(0.0, timeout), lambda: self._resume(ticket, woken=False))
        self._scheduler.switch_away()
        return ticket.woken

    def wake(self) -> None:
        """Wake the task that has waited longest, if any waits."""
        while self._tickets:
            if self._resume(self._tickets.popleft(), woken=True):
                return

    def wake_all(self) -> None:
        while self._tickets:
            self._resume(self._tickets.popleft(), woken=True)

    def _resume(self, ticket: _Ticket, woken: bool) -> bool:
        if not ticket.pending or not ticket.task.process.alive:
            return False
        ticket.pending, ticket.woken = False, woken
        self._scheduler.started(ticket.task)
        return True


class Scheduler:
    """Runs tasks one at a time, in an order drawn from `seed`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0  #: simulated seconds
        self.over = False
        self.hub = getcurrent()
        self.switches = 0  #: how often a task was resumed
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._number = count()
        self._tasks: list[Task] = []
        self._running: Task | None = None

    def spawn(self, name: str, work: Callable[[], object], process: Process | None = None) -> Task:
        """Return a task of `process` (else of the running one); the caller starts it."""
        task = Task(self, name, work, process or self.running().process)
        self._tasks.append(task)
        return task

    def started(self, task: Task) -> None:
        """Let a task run when its turn comes; those of dead processes have none."""
        if task.process.alive:
            self._ready.append(task)

    def running(self) -> Task:
        """Return the task that runs now."""
        assert self._running is not None, "only tasks can wait"
        return self._running

    def after(self, seconds: float, act: Callable[[], object]) -> None:
        """Call `act`, which must not wait, in so many seconds."""
        self.at(self.now + seconds, act)

    def at(self, moment: float, act: Callable[[], object]) -> None:
        """Call `act` at a time of the simulated clock; what is due at the same time is called in the order given."""
        heapq.heappush(self._timers, (moment, next(self._number), act))

    def sleep(self, seconds: float) -> None:
        if seconds > 0:
            Waiters(self).wait(seconds)
        else:
            self.step_aside()

    def step_aside(self) -> None:
        """Let other tasks run first, perhaps. The hub, which fires timers, never does."""
        if self._running is None or self.over:
            return
        if self.random.random() < _STEPS_ASIDE:
            self.started(self._running)
            self.switch_away()

    def switch_away(self) -> None:
        """Run other tasks until this one is resumed. Raises Killed when the simulation is over."""
        if self.over:
            raise Killed
        self.hub.switch()

    def run(self, complete: Callable[[], bool], until: float) -> None:
        """Run until `complete()`. Raises Stuck if no task can run any more, or at the simulated time `until`."""
        while not complete():
            if self._ready:
                self._resume(self._take_ready())
            elif self._timers and self._timers[0][0] <= until:
                self.now, _, act = heapq.heappop(self._timers)
                act()
            else:
                waiting = [f"{t.process.name}/{t.name}" for t in self._tasks if not t.over and t.process.alive]
                why = f"simulated time is up ({until:g} s)" if self._timers else "nothing can happen any more"
                raise Stuck(f"{why}; unfinished: {', '.join(waiting)}")

    def kill(self, process: Process) -> None:
        """End a process: none of its tasks runs again."""
        process.alive = False
        self._ready = [task for task in self._ready if task.process.alive]

    def close(self) -> None:
        """Unwind the tasks that are left."""
        self.over = True
        for task in self._tasks:
            if not task.over and not task.greenlet.dead:
                task.greenlet.throw(Killed)

    def _take_ready(self) -> Task:
        place = self.random.randrange(len(self._ready))
        self._ready[place], self._ready[-1] = self._ready[-1], self._ready[place]
        return self._ready.pop()

    def _resume(self, task: Task) -> None:
        self._running = task
        self.switches += 1
        task.greenlet.switch()
        self._running = None
