"""A simulated run of one link between two stages, over all that the network does to it, and what must hold of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from dni.errors import HandshakeRefused, WorkerLost
from tests.support.simulated.library import simulated
from tests.support.simulated.network import Network
from tests.support.simulated.plan import Plan, Stage
from tests.support.simulated.scheduler import Process, Scheduler, Task
from tests.support.transports import CLIENT, SERVER
from workers.comm.downstream import Downstream
from workers.comm.edge import WaitTime
from workers.comm.frame import Frame, Kind
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.end import GrpcEnd
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.comm.upstream import Upstream

ADDRESS = "127.0.0.1:7001"
_SLACK = 8  # frames in a queue beyond those of the credit, as in a run

#: Step and gradient of a target, and how late it is.
Answer = tuple[int, float, int]


@dataclass
class Outcome:
    """What has happened in one run."""

    sent: list[tuple[Kind, int]] = field(default_factory=list)
    received: list[tuple[Kind, int]] = field(default_factory=list)
    targets: list[Answer] = field(default_factory=list)
    most_kept: int = 0  #: messages kept by an end for a new connection
    errors: dict[Stage, BaseException | None] = field(default_factory=dict)
    reconnects: int = 0
    sent_again: int = 0  #: messages
    ended_s: float = 0.0  #: simulated time
    switches: int = 0
    cuts: int = 0
    replays: int = 0
    connections: int = 0


class Run:
    """Two stages, each a process: the previous one sends the frames of the plan, the next one replies."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.outcome = plan, Outcome()
        self.scheduler = Scheduler(plan.seed)
        self.network = Network(self.scheduler, plan.weather)
        self.settings = LinkSettings(
            limit=plan.window * plan.replies + _SLACK, timeout_s=plan.timeout_s, reconnect_s=plan.reconnect_s
        )

    def go(self) -> Outcome:
        """Run to the end. Raises Stuck, and AssertionError for a wrong state."""
        with simulated(self.network):
            tasks = {
                stage: self.scheduler.spawn(stage, work, Process(stage))
                for stage, work in (("previous", self._previous), ("next", self._next))
            }
            for task in tasks.values():
                task.start()
            if self.plan.killed is not None:
                victim = tasks[self.plan.killed].process
                self.scheduler.after(self.plan.killed_at, lambda: self.network.kill(victim))
            self.scheduler.run(lambda: self._is_over([*tasks.values()]), self.plan.until_s)
        self._conclude(tasks)
        return self.outcome

    def _conclude(self, tasks: dict[Stage, Task]) -> None:
        outcome, network = self.outcome, self.network
        outcome.errors = {stage: task.error for stage, task in tasks.items()}
        outcome.ended_s, outcome.switches = self.scheduler.now, self.scheduler.switches
        outcome.cuts, outcome.replays, outcome.connections = network.cuts, network.replays, network.connections
        outcome.sent_again = network.sent_again

    def _is_over(self, tasks: list[Task]) -> bool:
        failed = self.plan.survives and any(task.error for task in tasks)
        return failed or all(task.over or not task.process.alive for task in tasks)

    def _previous(self) -> None:
        end = grpc_connect(ADDRESS, CLIENT, self.settings)
        plan = self.plan
        down = Downstream(end, stage=0, window=plan.window, clock=WaitTime(), timeout_s=plan.timeout_s)
        for kind, step in plan.frames():
            self.scheduler.sleep(self._compute())
            self.outcome.sent.append((kind, step))
            down.send(kind, step, {"value": torch.tensor([float(step)])} if kind is Kind.STEP else {})
            self._check_sender(down, end)
            if kind is Kind.STEP:
                self._take(down, down.targets(step - plan.lag if plan.lag is not None and step >= plan.lag else None))
            else:
                self._take(down, down.drain())
        end.close()
        assert isinstance(end, GrpcEnd)
        self.outcome.reconnects = end.reconnects

    def _take(self, down: Downstream, targets: Iterator[Answer]) -> None:
        for target in targets:
            self.outcome.targets.append((target.step, target.gradient.item(), target.late))
        assert 0 <= down.in_flight <= self.plan.window, f"{down.in_flight} frames in flight, of {self.plan.window}"

    def _check_sender(self, down: Downstream, end: ChannelEnd) -> None:
        assert 0 < down.in_flight <= self.plan.window, f"{down.in_flight} frames in flight, of {self.plan.window}"
        self._check_memory(end, self.plan.window)

    def _check_memory(self, end: ChannelEnd, most: int) -> None:
        assert isinstance(end, GrpcEnd)
        self.outcome.most_kept = max(self.outcome.most_kept, len(end._kept))
        assert len(end._kept) <= most, f"an end keeps {len(end._kept)} frames to send them again, of {most} at most"

    def _next(self) -> None:
        listener = GrpcListener(ADDRESS, handshake=SERVER, settings=self.settings)
        end = listener.accept(self.plan.timeout_s)
        up = Upstream(end, stage=1, clock=WaitTime(), timeout_s=self.plan.timeout_s)
        kind = None
        while kind is not Kind.END:
            frame = up.receive()
            kind = frame.kind
            assert up.pending() < self.plan.window, f"{up.pending()} frames wait beside the one that was taken"
            self.outcome.received.append((kind, frame.step))
            self.scheduler.sleep(self._compute())
            self._reply(up, frame)
            self._check_memory(end, self.plan.window * self.plan.replies)
        listener.close()

    def _reply(self, up: Upstream, frame: Frame) -> None:
        if frame.kind is not Kind.STEP:
            up.finish(frame)
            return
        gradient = 10 * frame.tensors["value"]
        if self.plan.replies == 1:
            up.finish(frame, gradient)
        else:
            up.finish(frame, gradient, more=True)
            up.finish(frame, gradient - 10, late=1)

    def _compute(self) -> float:
        return self.scheduler.random.uniform(0, self.plan.compute_s)


def check(plan: Plan) -> Outcome:
    """Run a plan and check what it must end with. Raises AssertionError, which says how to repeat the run."""
    try:
        outcome = Run(plan).go()
        _check(plan, outcome)
    except Exception as error:
        message = f"SEED={plan.seed}: {type(error).__name__}: {error} (again: make chaos-sim SEED={plan.seed})"
        raise AssertionError(message) from error
    return outcome


def _check(plan: Plan, outcome: Outcome) -> None:
    sent, answers = [*plan.frames()], _answers(plan)
    lost = {stage: error for stage, error in outcome.errors.items() if error is not None}
    if plan.survives:
        for error in lost.values():
            raise error
        _compare(outcome, sent, answers)
    else:
        for error in lost.values():
            if not isinstance(error, (WorkerLost, HandshakeRefused)):
                raise error
        _compare(outcome, sent[: len(outcome.received)], answers[: len(outcome.targets)])


def _compare(outcome: Outcome, frames: list[tuple[Kind, int]], answers: list[Answer]) -> None:
    assert outcome.received == frames, f"received {outcome.received}, not {frames}"
    assert outcome.targets == answers, f"targets {outcome.targets}, not {answers}"


def _answers(plan: Plan) -> list[Answer]:
    """Return the targets that the previous stage must get."""
    steps = [step for kind, step in plan.frames() if kind is Kind.STEP]
    own: list[Answer] = [(step, 10.0 * step, 0) for step in steps]
    if plan.replies == 1:
        return own
    return [answer for step, *_ in own for answer in ((step, 10.0 * step, 0), (step, 10.0 * step - 10, 1))]
