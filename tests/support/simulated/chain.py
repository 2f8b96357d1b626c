"""A simulated run of three stages, of which the later two are killed and started again alone, and what must hold of it.

The stages are processes with the links of `workers.launch.rejoin` and the edges of `workers.comm.lasting`. The
supervisor is a stand-in: it notices a death, tells the neighbours, and starts the stage again.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

from dni.errors import PeerTimeout, WorkerLost
from tests.support.simulated.chain_plan import STAGES, ChainPlan
from tests.support.simulated.library import simulated
from tests.support.simulated.network import Network
from tests.support.simulated.primitives import Queue
from tests.support.simulated.scheduler import Process, Scheduler, Task
from tests.support.transports import SERVER
from workers.comm.edge import WaitTime
from workers.comm.frame import Handshake, Kind
from workers.comm.lasting.downstream import LastingDownstream
from workers.comm.lasting.upstream import LastingUpstream
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.grpc.link import GrpcListener, grpc_connect
from workers.comm.transports.process_link import LinkSettings
from workers.launch.rejoin import links as rejoin
from workers.launch.rejoin.links import LastingLinks

_SLACK = 8


@dataclass
class Life:
    """What one process of a stage has done."""

    stage: int
    incarnation: int
    task: Task | None = None
    steps: list[int] = field(default_factory=list)  #: training steps that it has received or, the first stage, sent
    targets: list[int] = field(default_factory=list)  #: steps of the targets that it got
    skipped: int = 0  #: steps that the next stage has not finished, as the stage counts them
    missed: int = 0  #: steps that did not come, as the stage counts them
    error: Exception | None = None  #: that ended its work
    ending: bool = False  #: it sends the last frame
    done: bool = False
    links: LastingLinks | None = None


class Chain:
    """Three stages and their supervisor."""

    def __init__(self, plan: ChainPlan) -> None:
        self.plan = plan
        self.scheduler = Scheduler(plan.seed)
        self.network = Network(self.scheduler, plan.weather)
        self.lives: list[Life] = []  #: of all processes
        self.kills, self.ended_whole = 0, False  #: ended_whole: the whole run would start again
        self._current: dict[int, Life] = {}
        self._addresses: dict[int, str] = {}
        self._peers: dict[int, Queue] = {}
        self._going: set[int] = set()
        self._settings = LinkSettings(
            limit=plan.window * 2 + _SLACK, timeout_s=plan.timeout_s, reconnect_s=plan.reconnect_s
        )

    def go(self) -> None:
        """Run to the end. Raises Stuck, or the error of a stage."""
        with ExitStack() as replaced:
            replaced.enter_context(simulated(self.network))
            replaced.enter_context(patch.object(rejoin, "connect", self._connect))
            replaced.enter_context(patch.object(rejoin, "listen", self._listen))
            for index in range(STAGES):
                self._start(index)
            for moment, index in self.plan.kills:
                self.scheduler.at(moment, lambda index=index: self._kill(index))
            self.scheduler.run(self._is_over, self.plan.until_s)
        for life in self.lives:
            error = life.error or (life.task and life.task.error)
            if life.ending and isinstance(error, WorkerLost):
                self.ended_whole = True  # a stage has lost the next one as it sent the last frame
            elif error is not None:
                raise error

    def _is_over(self) -> bool:
        current = self._current.values()
        return any(life.error for life in current) or all(life.task and life.task.over for life in current)

    # The supervisor.

    def _start(self, index: int) -> None:
        incarnation = sum(life.stage == index for life in self.lives)
        life = Life(index, incarnation)
        self.lives.append(life)
        self._current[index], self._peers[index] = life, Queue(self.scheduler)
        if index + 1 in self._addresses:
            self._peers[index].put_nowait(self._addresses[index + 1])
        process = Process(f"stage {index}.{incarnation}")
        life.task = self.scheduler.spawn("main", lambda: self._live(life), process)
        life.task.start()

    def _kill(self, index: int) -> None:
        beside = {index - 1, index + 1} & set(range(1, STAGES))
        life = self._current[index]
        if life.done or index not in self._going or not beside <= self._going:
            return  # the whole run would start again
        assert life.task is not None
        self.kills += 1
        self._going -= {index}
        self.network.kill(life.task.process)
        self.scheduler.after(self._draw(self.plan.notice_s), lambda: self._replace(index))

    def _replace(self, index: int) -> None:
        for neighbour in {index - 1, index + 1} & set(range(STAGES)):
            self._tell_lost(neighbour, index)
        self._addresses.pop(index)
        self.scheduler.after(self._draw(self.plan.start_s), lambda: self._start(index))

    def _tell_lost(self, neighbour: int, index: int) -> None:
        """In a thread of the neighbour, as the supervisor's messages are read there."""
        life = self._current[neighbour]
        if life.links is not None and life.task is not None:
            links = life.links
            self.scheduler.spawn("control", lambda: links.lost(index), life.task.process).start()

    def _said(self, index: int, event: str, address: str = "", step: int = 0) -> None:
        if event == "listening":
            self._addresses[index] = address
            self._peers[index - 1].put_nowait(address)
        else:
            self._going.add(index)

    # A stage.

    def _live(self, life: Life) -> None:
        with ExitStack() as opened:
            try:
                self._work(life, opened)
            except Exception as error:
                life.error = error  # the supervisor knows before the links are closed
                raise

    def _work(self, life: Life, opened: ExitStack) -> None:
        index, plan = life.stage, self.plan
        settings = {"stage": index, "timeout_s": plan.timeout_s}
        links = life.links = LastingLinks(
            self._job(life), index, partial(self._said, index), partial(self._peer, index), opened
        )
        up = down = None
        if links.before is not None:
            up = LastingUpstream(links.before, clock=WaitTime(), **settings)
        if links.after is not None:
            down = LastingDownstream(links.after, clock=WaitTime(), window=plan.window, **settings)
        links.open()
        if up is None:
            self._lead(life, down)
        else:
            self._follow(life, up, down)
        life.missed = 0 if up is None else up.missed
        life.skipped = 0 if down is None else down.skipped
        life.done = True

    def _lead(self, life: Life, down: LastingDownstream) -> None:
        for kind, step in self.plan.frames():
            self._handle(life, down, kind, step)

    def _follow(self, life: Life, up: LastingUpstream, down: LastingDownstream | None) -> None:
        kind = None
        while kind is not Kind.END:
            frame = up.receive()
            kind = frame.kind
            self._handle(life, down, kind, frame.step)
            up.finish(frame, *([torch.tensor([10.0 * frame.step])] if kind is Kind.STEP else []))

    def _handle(self, life: Life, down: LastingDownstream | None, kind: Kind, step: int) -> None:
        if kind is Kind.STEP:
            life.steps.append(step)
        self.scheduler.sleep(self._draw(self.plan.compute_s))
        life.ending = kind is Kind.END
        if down is None:
            return
        tensors = {"value": torch.tensor([float(step)]), "reset": torch.tensor([False])}
        down.send(kind, step, tensors if kind is Kind.STEP else {})
        assert 0 <= down.in_flight <= self.plan.window, f"{down.in_flight} in flight, of {self.plan.window}"
        for target in down.targets() if kind is Kind.STEP else down.drain():
            assert target.gradient.item() == 10 * target.step
            life.targets.append(target.step)

    # What stands for the links of a job.

    def _job(self, life: Life) -> Any:
        transport = SimpleNamespace(timeout_s=self.plan.timeout_s)
        config = SimpleNamespace(stages=STAGES, transport=transport)
        return SimpleNamespace(config=config, incarnation=life.incarnation)

    def _connect(self, job: Any, index: int, address: str) -> ChannelEnd:
        return grpc_connect(address, self._handshake(job, index), self._settings)

    def _listen(self, job: Any, index: int) -> GrpcListener:
        address = f"127.0.0.1:{7000 + 100 * index + job.incarnation}"
        return GrpcListener(address, handshake=self._handshake(job, index), settings=self._settings)

    def _handshake(self, job: Any, index: int) -> Handshake:
        return replace(SERVER, stage=index, stages=STAGES, incarnation=job.incarnation)

    def _peer(self, index: int, timeout_s: float | None) -> str:
        try:
            return self._peers[index].get(timeout=timeout_s)
        except Exception as error:
            raise PeerTimeout("no address") from error

    def _draw(self, longest_s: float) -> float:
        return self.scheduler.random.uniform(0, longest_s)


def check_chain(plan: ChainPlan) -> Chain:
    """Run a plan and check what it must end with. Raises AssertionError, which says how to repeat the run."""
    chain = Chain(plan)
    try:
        chain.go()
        for life in chain.lives:
            _check(plan, life)
        _check_lives(plan, chain.lives)
    except Exception as error:
        message = f"SEED={plan.seed}: {type(error).__name__}: {error} (again: make chaos-sim SEED={plan.seed})"
        raise AssertionError(message) from error
    return chain


def _check(plan: ChainPlan, life: Life) -> None:
    """Check one process: no step or target comes twice or out of order, and what did not come is counted."""
    assert life.steps == sorted(set(life.steps)), f"stage {life.stage}: steps {life.steps}"
    assert life.targets == sorted(set(life.targets)), f"stage {life.stage}: targets {life.targets}"
    if not life.done:
        return
    if life.stage < STAGES - 1:
        counted = len(life.targets) + life.skipped
        assert counted == len(life.steps), f"stage {life.stage}: {life.targets}, {life.skipped} skipped: {life.steps}"
    counted = len(life.steps) + life.missed
    assert counted == plan.steps, f"stage {life.stage}: steps {life.steps}, {life.missed} missed, of {plan.steps}"


def _check_lives(plan: ChainPlan, lives: list[Life]) -> None:
    """Check that no step is taken by two processes of a stage."""
    for index in range(STAGES):
        steps = [step for life in lives if life.stage == index for step in life.steps]
        assert steps == sorted(set(steps)), f"stage {index} has taken steps {steps}"
