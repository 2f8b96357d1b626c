"""Stages that do not wait for gradients: the steps of `workers.runtime.worker`, with at most W frames in flight."""

from __future__ import annotations

from collections import deque

from dni.interfaces.delayed import AT_ONCE
from workers.simulation.events import Link, Network, Program, Stage

ACKNOWLEDGED = -1  # the note of an acknowledgement without a gradient


class Edge:
    """Credit on the edge to the next stage, and the gradients that have returned over it."""

    def __init__(self, network: Network, stage: Stage, window: int) -> None:
        self.down, self.up, self.stage, self.window = network.down[stage.index], network.up[stage.index], stage, window
        self.size = network.scenario.activation_at(stage.index)
        self.unfinished = 0
        self.answers: list[int] = []  # steps of the gradients that have arrived

    def send(self, step: int) -> Program:
        """Send a frame; wait while W frames are in flight."""
        while self.unfinished >= self.window:
            if not self.up.frames:
                yield self.up
            self._take()
        self.stage.send(self.down, self.size, step)
        self.unfinished += 1

    def gather(self) -> Program:
        """Receive the answers that have arrived."""
        yield None
        by = self.stage.now
        while self.up.frames and self.up.frames[0][0] <= by:
            self._take()

    def taken(self) -> list[int]:
        """Return the gradients that have arrived since the last call."""
        answers, self.answers = self.answers, []
        return answers

    def _take(self) -> None:
        note = self.stage.take(self.up)
        if note % 2 == 0:
            self.unfinished -= 1
        if note // 2 != ACKNOWLEDGED:
            self.answers.append(note // 2)


def answer(network: Network, stage: Stage, step: int = ACKNOWLEDGED, *, more: bool = False) -> None:
    """Acknowledge a frame upstream, with the gradient of `step` or without; with `more`, a later answer acknowledges
    it."""
    if stage.index:
        size = 0 if step == ACKNOWLEDGED else network.scenario.gradient_at(stage.index - 1)
        stage.send(network.up[stage.index - 1], size, 2 * step + more)


def receive(stage: Stage, source: Link | None) -> Program:
    """Receive the activation of the next step; the first stage reads its data without waiting."""
    if source is not None:
        if not source.frames:
            yield source
        stage.take(source)


def decoupled(network: Network, index: int, *, local: bool = False) -> Program:
    """Run a stage whose gradient is predicted, or with `local` comes from a local loss."""
    s, stage = network.scenario, network.stages[index]
    forward, backward, update = s.forward_s[index], s.backward_s[index], s.update_s[index]
    source = network.down[index - 1] if index else None
    edge = Edge(network, stage, s.window) if index < s.stages - 1 else None
    for step in range(s.steps):
        yield from receive(stage, source)
        stage.work(forward)
        stage.hold(1)
        if edge is not None:
            yield from edge.send(step)
        stage.work(backward + (update if local and edge is not None else 0.0))
        answer(network, stage, ACKNOWLEDGED if local else step)
        if edge is None or local:
            stage.hold(-1)  # a predictor keeps its value until the target arrives
        if edge is not None:
            yield from edge.gather()
            for target in edge.taken():
                stage.work(update)
                stage.use(step - target)
                stage.hold(-1)
        network.finished(stage, step)


class Stash:
    """The windows that a stage keeps until their gradients arrive, with the weights of their forward passes."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.updates, self.weights = stage, 0, 0
        self._kept: deque[tuple[int, int]] = deque()  # step, number of updates before it

    def keep(self, step: int) -> None:
        self.weights += not self._kept or self._kept[-1][1] != self.updates
        self._kept.append((step, self.updates))
        self.stage.hold(1)
        self.stage.versions = max(self.stage.versions, self.weights)

    def backward(self, step: int) -> None:
        """Release the oldest window, which must be that of `step`, and update the weights."""
        oldest, before = self._kept.popleft()
        assert oldest == step
        self.weights -= not self._kept or self._kept[0][1] != before
        self.updates += 1
        self.stage.hold(-1)


def delayed(network: Network, index: int) -> Program:
    """Run a stage that keeps its windows and runs their backward passes as their true gradients arrive."""
    s, stage = network.scenario, network.stages[index]
    source = network.down[index - 1] if index else None
    edge = Edge(network, stage, s.window // (s.stages - 1)) if index < s.stages - 1 else None
    stash, waiting = Stash(stage), deque[int]()
    for step in range(s.steps):
        yield from receive(stage, source)
        stage.work(s.forward_s[index])
        stash.keep(step)
        if edge is None:
            waiting.append(step)
        else:
            yield from edge.send(step)
            yield from edge.gather()
            waiting.extend(edge.taken())
        due = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting)))]
        for earlier in due:
            stage.work(s.backward_s[index])
            answer(network, stage, earlier, more=earlier != due[-1])
            stash.backward(earlier)
            if edge is not None:
                stage.use(step - earlier)
        if not due:
            answer(network, stage)
        network.finished(stage, step)
