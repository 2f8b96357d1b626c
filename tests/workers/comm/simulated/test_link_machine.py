"""A link as hypothesis drives it: any order of sends, replies, cuts and waits, beside a model of three lists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dni.errors import DniError
from tests.support.simulated import faults
from tests.support.simulated.faults import planted
from tests.support.simulated.library import simulated
from tests.support.simulated.network import Network, Weather
from tests.support.simulated.scheduler import Process, Scheduler
from tests.support.transports import CLIENT, SERVER
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Kind
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.comm.upstream import Upstream

_ADDRESS = "127.0.0.1:7001"
_SETTINGS = LinkSettings(limit=32, timeout_s=1000, reconnect_s=500)
_LONG_S = 300.0  # simulated; longer than any repair


class LinkMachine(RuleBasedStateMachine):
    """Frames are their steps. Each call of a stage runs in a task of its own and must come to an end."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        self.sent: list[int] = []
        self.received: list[int] = []
        self.replied: list[int] = []
        self.targets: list[int] = []
        self.taken: Any = None  # the frame that has no reply yet

    @initialize(seed=st.integers(0, 2**16), window=st.integers(1, 4), silence_s=st.sampled_from([0.0, 8.0]))
    def open(self, seed: int, window: int, silence_s: float) -> None:
        self.scheduler, self.window = Scheduler(seed), window
        self.network = Network(self.scheduler, Weather(stalls=0.1, stall_s=1.0, outage_s=0.0, silence_s=silence_s))
        self.opened.enter_context(simulated(self.network))
        self.previous, self.next = Process("previous"), Process("next")
        listening = self.do(self.next, lambda: GrpcListener(_ADDRESS, handshake=SERVER, settings=_SETTINGS))
        self.end = self.do(self.previous, lambda: grpc_connect(_ADDRESS, CLIENT, _SETTINGS))
        self.other, self.listener = self.do(self.next, lambda: listening.accept(10)), listening
        timing: dict[str, Any] = {"timeout_s": 1000}
        self.down = Downstream(self.end, stage=0, window=window, clock=WaitTime(), **timing)
        self.up = Upstream(self.other, stage=1, clock=WaitTime(), **timing)

    def do(self, process: Process, work: Callable[[], Any]) -> Any:
        """Let a stage do something, and return its result."""
        results: list[Any] = []
        task = self.scheduler.spawn("main", lambda: results.append(work()), process)
        task.start()
        self.scheduler.run(lambda: task.over, self.scheduler.now + _LONG_S)
        if task.error is not None:
            raise task.error
        return results[0]

    @precondition(lambda self: len(self.sent) - len(self.replied) < self.window)
    @rule()
    def send(self) -> None:
        """Send a step; there is credit, perhaps only once the replies have arrived."""
        if len(self.sent) - len(self.targets) >= 2 * self.window:
            self.take()
        step = len(self.sent)
        self.do(self.previous, lambda: self.down.send(Kind.STEP, step, {"value": torch.tensor([float(step)])}))
        self.sent.append(step)

    @precondition(lambda self: self.taken is None and len(self.received) < len(self.sent))
    @rule()
    def receive(self) -> None:
        """Receive the next step, and no other."""
        self.taken = self.do(self.next, self.up.receive)
        assert self.taken.step == self.sent[len(self.received)]
        self.received.append(self.taken.step)

    @precondition(lambda self: self.taken is not None)
    @rule()
    def reply(self) -> None:
        self.do(self.next, lambda: self.up.finish(self.taken, torch.tensor([10.0 * self.taken.step])))
        self.replied.append(self.taken.step)
        self.taken = None

    @rule()
    def take(self) -> None:
        """Take the targets that have arrived."""
        for target in self.do(self.previous, lambda: [*self.down.targets()]):
            assert target.gradient.item() == 10 * target.step
            self.targets.append(target.step)

    @rule()
    def cut(self) -> None:
        """Cut the newest connection, which may still carry its handshake."""
        self.network._connections[-1].cut()

    @rule(seconds=st.sampled_from([0.01, 0.3, 10.0]))
    def wait(self, seconds: float) -> None:
        self.do(self.previous, lambda: self.scheduler.sleep(seconds))

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        assert self.received == self.sent[: len(self.received)]
        assert self.targets == self.replied[: len(self.targets)]

    @invariant()
    def memory_and_credit_are_bounded(self) -> None:
        if self.sent:
            assert 0 <= self.down.in_flight <= self.window
            assert len(self.end._kept) <= self.window
            assert len(self.other._kept) <= self.window

    def teardown(self) -> None:
        with self.opened:
            if self.sent:
                self._finish()

    def _finish(self) -> None:
        """Come to an end in order: everything that was sent has arrived."""
        while len(self.replied) < len(self.sent):
            if self.taken is None:
                self.receive()
            self.reply()
        self.targets += [target.step for target in self.do(self.previous, lambda: [*self.down.drain()])]
        assert self.targets == self.received == self.sent
        closing = self.scheduler.spawn("main", self.listener.close, self.next)
        closing.start()
        self.do(self.previous, self.end.close)
        self.scheduler.run(lambda: closing.over, self.scheduler.now + 2 * _LONG_S)


QUICK = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)
LinkMachine.TestCase.settings = QUICK
TestLinkMachine = pytest.mark.timeout(300)(LinkMachine.TestCase)


def test_a_planted_fault_is_found() -> None:
    without_shrinking = settings(QUICK, phases=[Phase.generate])
    with planted(faults.SENT_TOO_LITTLE), pytest.raises((AssertionError, DniError)):
        run_state_machine_as_test(LinkMachine, settings=without_shrinking)
