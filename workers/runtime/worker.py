"""The training loop of one stage, the same for every method.

The numbers are those of docs/architecture.md, 8 is in docs/rules.md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from dni.interfaces.base import Interface
from dni.losses import count_rows
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow
from workers.comm.downstream import Downstream
from workers.comm.edge import Loss, Target
from workers.comm.frame import Frame, Kind
from workers.comm.upstream import Upstream
from workers.runtime.clock import Clock
from workers.runtime.feed import Feed
from workers.runtime.forward_unlocked import ForwardUnlocked
from workers.runtime.gradient_probe import Probe
from workers.runtime.recorder import Recorder


class Worker:
    """One stage between its two edges.

    Args:
        stage: the part of the model.
        depth: where dL/d output comes from.
        time: where dL/d state comes from.
        bootstrap: makes the targets of the time cut.
        upstream: the edge to the previous stage; the first stage has a feed instead, one with synthetic inputs both.
        downstream: the edge to the next stage; the last stage has none.
        lag: wait for the target of step t - lag after step t; None takes what has come.
        staleness: a; a step is taken at (1 + s)^-a of the learning rate, s the steps by which its gradient is late, or
            the newest target of what predicts it was.
        goes_back: whether this stage goes back at a step; where not, it only passes its output on.
        clock: at which steps this stage works, and at which the next one does.
        journal: keeps the figures.
        save: called with (step, state) at a mark.
    """

    def __init__(
        self,
        stage: Stage,
        depth: Interface,
        time: Interface,
        bootstrap: Bootstrap,
        upstream: Upstream | Feed | ForwardUnlocked,
        downstream: Downstream | None,
        *,
        recorder: Recorder,
        save: Callable[[int, dict[str, Any]], None],
        lag: int | None = None,
        staleness: float = 0.0,
        goes_back: Callable[[int], bool] = lambda step: True,
        clock: Clock | None = None,
    ) -> None:
        self.stage, self.depth, self.time, self.bootstrap = stage, depth, time, bootstrap
        self.upstream, self.downstream = upstream, downstream
        self.lag, self.staleness, self.recorder, self.save, self.goes_back = lag, staleness, recorder, save, goes_back
        self.clock = clock or Clock()
        self.losses: list[Loss] = []  # news on its way to the source of the data
        self.early_targets: list[Target] = []  # targets that a mark brought in before their time
        self.step = 0  # of the newest frame

    def run(self) -> None:
        """Work until the end of the run has come through and every later stage has finished."""
        handlers = {
            Kind.STEP: self.train,
            Kind.EVALUATE: self.evaluate,
            Kind.PROBE: self.probe,
            Kind.CHECKPOINT: self.mark,
            Kind.END: self.end,
        }
        kind = None
        while kind is not Kind.END:
            frame = self.upstream.receive()  # 1. the activation of this step (the first stage reads a batch)
            kind, self.step = frame.kind, frame.step
            with self.recorder.handling(frame):
                handle = handlers[kind] if self.clock.ticks(frame) else self.rest
                handle(frame)

    def train(self, frame: Frame) -> None:
        """One training step."""
        step, reset = frame.step, frame.tensors["reset"]
        done = frame.tensors["done"].to(self.stage.device)
        value, labels, context = self.split(frame)
        output, state = self.stage.forward(value, reset, step)  # 2. forward
        self.pass_on(frame, output)  # 3. the next stage is no longer waiting
        if self.depth.targets_first:
            self.take_targets(self.depth.required_step(step))
        ask = self.depth.ready_steps if self.goes_back(step) else self.depth.on_skip
        ready = ask(step, output, labels)  # 4. ask each cut for its gradient
        state_gradient = None if state is None else self.time.gradient(self.clock.count(step), state, context, done)
        for each in ready:  # this step; with late gradients an earlier one, two, or none
            gradients = self.stage.backward(each.gradient, state_gradient, each.step)  # 5. one backward pass
            late, more = step - each.step, each is not ready[-1]  # 6. send targets back; update
            if not self.stage.replies_later:
                self.upstream.finish(frame, gradients.activation, self.loss_reports(step), late=late, more=more)
            tick = self.clock.count(each.step)
            past = PastWindow(tick, value, labels, context, reset, done, each.gradient, state, state_gradient)
            for target in self.bootstrap.targets(past, gradients.state):
                self.time.target(*target)
            factor = (1 + late + self.depth.staleness) ** -self.staleness
            move = self.depth.ready and (self.time.ready or bool(done.all()))
            self.stage.update(each.labels, move=move, factor=factor)
        if not ready:
            self.upstream.finish(frame, losses=self.loss_reports(step))
        self.take_targets(None if self.lag is None else step - self.lag)  # 7. fit the predictor to what came back
        if self.stage.replies_later:
            self.reply(frame)  # 8. send the targets back for which step 6 was too early
        self.recorder.step(step, count_rows(labels))  # records this step's rate, so the schedule comes after it
        if self.stage.schedule is not None:
            self.stage.schedule.step()  # of the run's steps: the same at all stages, whatever moved

    def rest(self, frame: Frame) -> None:
        """A window between two ticks: nothing is run, and news goes on its way."""
        self.pass_on(frame)
        if frame.kind is Kind.EVALUATE:
            self.upstream.finish(frame)
            return
        self.depth.measured = None
        self.upstream.finish(frame, losses=self.loss_reports(frame.step))
        self.take_targets(None if self.lag is None else frame.step - self.lag)
        self.recorder.step(frame.step, 0)
        if self.stage.schedule is not None:
            self.stage.schedule.step()

    def pass_on(self, frame: Frame, output: Tensor | None = None) -> None:
        """Send what follows from a frame to the next stage; blocks while W frames are unfinished there."""
        if self.downstream is not None:
            self.downstream.send(frame.kind, frame.step, self.clock.passed(frame, output))

    def take_targets(self, wait_for: int | None) -> None:
        """Give the depth cut the targets that have arrived, or all up to and including one step's."""
        if self.downstream is None:
            return
        early, self.early_targets = self.early_targets, []
        for target in chain(early, self.downstream.targets(wait_for)):
            if wait_for is None or target.step <= wait_for:
                if target.gradient is not None:
                    self.depth.target(target.step - target.late, target.gradient)
                    self.stage.on_target(target.step - target.late, target.gradient)
                self.losses += target.losses
            else:
                self.early_targets.append(target)

    def reply(self, frame: Frame) -> None:
        """Finish a frame with the targets of earlier steps that can be made now, or with none."""
        replies, step = self.stage.ready_replies(), frame.step
        for each in replies:
            late, more = step - each.step, each is not replies[-1]
            self.upstream.finish(frame, each.gradient, self.loss_reports(step), late=late, more=more)
        if not replies:
            self.upstream.finish(frame, losses=self.loss_reports(step))

    def loss_reports(self, step: int) -> list[Loss]:
        """The losses this stage has measured or heard of since it last told."""
        if self.depth.measured is not None:
            self.losses.append(Loss(step, *self.depth.measured))
        loss_reports, self.losses = self.losses, []
        return loss_reports

    def evaluate(self, frame: Frame) -> None:
        """One validation window: forward only."""
        value, labels, _ = self.split(frame)
        output = self.stage.evaluate(value, frame.tensors["reset"])
        self.pass_on(frame, output)
        self.upstream.finish(frame)
        judged = self.depth.evaluation_outputs(output, labels)
        if judged is not None:
            self.recorder.validation(frame.step, judged)
        if self.downstream is None:
            self.recorder.measure(output, labels)

    def probe(self, frame: Frame) -> None:
        """A whole sequence, to hold synthetic gradients against exact ones; nothing of training changes."""
        self.drain()
        probe = Probe(self.stage, frame)
        if self.downstream is None:
            gradient = self.depth.recompute(probe.output, probe.labels, None)
            assert gradient is not None, "the last stage has the loss"
        else:
            gradient = self.downstream.exchange(frame.kind, frame.step, {**frame.tensors, "value": probe.output})
        self.upstream.finish(frame, probe.backward(gradient))
        self.recorder.probe(frame.step, probe.figures(self.depth, self.time))

    def mark(self, frame: Frame) -> None:
        """A checkpoint: saved once every target up to this step has come, or is known not to."""
        self.pass_on(frame)
        self.drain()
        self.save(frame.step, self.state_dict())
        self.upstream.finish(frame)
        self.recorder.saved(frame.step)

    def end(self, frame: Frame) -> None:
        """The last frame: wait until every later stage has finished."""
        self.pass_on(frame)
        self.drain()
        self.upstream.finish(frame)
        self.recorder.end(frame.step)

    def drain(self) -> None:
        """Wait until all that was sent is finished; with a lag, targets keep for their step."""
        if self.downstream is not None:
            self.early_targets += self.downstream.drain()
            if self.lag is None:
                self.take_targets(None)

    def state_dict(self) -> dict[str, Any]:
        """Everything a checkpoint of this stage holds."""
        stage, depth, time = self.stage.state_dict(), self.depth.state_dict(), self.time.state_dict()
        rest: dict[str, Any] = {"early": self.early_targets, "losses": self.losses}
        rest |= {"upstream": self.upstream.state_dict(), "journal": self.recorder.state_dict()}
        rest |= {"clock": self.clock.state_dict()} if self.clock.every > 1 else {}
        return {"stage": stage, "depth": depth, "time": time, "bootstrap": self.bootstrap.state_dict(), **rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.stage.load_state_dict(state["stage"])
        self.depth.load_state_dict(state["depth"])
        self.time.load_state_dict(state["time"])
        self.bootstrap.load_state_dict(state["bootstrap"])
        self.early_targets = [
            Target(step, g, tuple(Loss(*n) for n in loss_reports), *late)
            for step, g, loss_reports, *late in state["early"]
        ]
        self.losses = [Loss(*loss) for loss in state["losses"]]
        self.upstream.load_state_dict(state["upstream"])
        self.recorder.load_state_dict(state.get("journal"))
        if self.clock.every > 1:
            self.clock.load_state_dict(state["clock"])

    def split(self, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
        """The value, the labels that belong to it (B, T) or (B,), and the context of the time cut (`PastWindow`).

        Labels of an own task come first, and go no further than this stage.
        """
        labels = frame.tensors["labels"].to(self.stage.device)
        own = frame.tensors.pop("own", None)
        context = frame.tensors.get("context", labels.new_empty(len(labels), 0))
        labels = labels if own is None else torch.cat([own.to(self.stage.device), labels], dim=1)
        return frame.tensors["value"], labels, context.to(self.stage.device)
