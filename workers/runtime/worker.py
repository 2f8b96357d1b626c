"""The training loop of one stage, the same for every method.

The numbers are those of docs/architecture.md, 8 is in docs/rules.md.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from dni.interfaces.base import Interface
from dni.losses import count_rows
from dni.named_tensors import Value
from dni.stages.base import Stage
from dni.time_targets.base import Bootstrap, PastWindow
from workers.comm.downstream import Downstream
from workers.comm.edge import Loss, Target
from workers.comm.frame import Frame, Kind
from workers.comm.upstream import Upstream
from workers.runtime.corrections import correct, replying
from workers.runtime.feed import Feed
from workers.runtime.forward_unlocked import ForwardUnlocked
from workers.runtime.gradient_probe import Probe
from workers.runtime.piggyback.base import Piggyback
from workers.runtime.recorder import Recorder
from workers.runtime.update_period import UpdatePeriod
from workers.runtime.window import split
from workers.storage.checkpoint_writer import CheckpointWriter


class Worker:
    """One stage between its two edges.

    Args:
        stage: the part of the model.
        depth: the interface at the output; it returns dL/d output.
        time: the interface at the end of a window; it returns dL/d state.
        bootstrap: makes the targets of the time cut.
        upstream: the edge to the previous stage; the first stage has a feed, one that predicts its input has both.
        downstream: the edge to the next stage; the last stage has none.
        recorder: keeps the figures.
        writer: writes the state at a checkpoint barrier.
        lag: wait for the target of step t - lag after step t; None takes the targets that have arrived.
        staleness: a; a step is taken at (1 + s)^-a of the learning rate. s is by how many steps its gradient is late,
            or the newest target of the predictor was.
        goes_back: returns whether this stage goes back at a step; if not, it only passes its output on.
        period: the steps at which this stage works, and those at which the next one does.
        piggyback: what rides along with the frames.
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
        writer: CheckpointWriter,
        lag: int | None = None,
        staleness: float = 0.0,
        goes_back: Callable[[int], bool] = lambda step: True,
        period: UpdatePeriod | None = None,
        piggyback: Piggyback | None = None,
    ) -> None:
        self.stage, self.depth, self.time, self.bootstrap = stage, depth, time, bootstrap
        self.upstream, self.downstream = upstream, downstream
        self.lag, self.staleness, self.goes_back = lag, staleness, goes_back
        self.recorder, self.writer = recorder, writer
        self.period, self.piggyback = period or UpdatePeriod(), piggyback or Piggyback()
        self.losses: list[Loss] = []  # on their way to the source of the data
        self.early_targets: list[Target] = []  # targets that a checkpoint barrier received before their step
        self.step = 0  # of the newest frame

    def run(self) -> None:
        """Work until the END frame has been handled and every later stage has finished."""
        handlers = {
            Kind.STEP: self.train,
            Kind.EVALUATE: self.evaluate,
            Kind.PROBE: self.probe,
            Kind.CHECKPOINT: self.checkpoint,
            Kind.END: self.end,
        }
        kind = None
        with self.writer:
            while kind is not Kind.END:
                frame = self.upstream.receive()  # 1. the activation of this step (the first stage reads a batch)
                kind, self.step = frame.kind, frame.step
                with self.recorder.handling(frame):
                    self.writer.check()
                    self.piggyback.received(frame)
                    handle = handlers[kind] if self.period.works(frame) else self.rest
                    handle(frame)

    def train(self, frame: Frame) -> None:
        """One training step."""
        step, reset = frame.step, frame.tensors["reset"]
        done = frame.tensors["done"].to(self.stage.device)
        value, labels, context = split(frame, self.stage.device)
        output, state = self.stage.forward(value, reset, step)  # 2. forward
        self.pass_on(frame, output)  # 3. the next stage is no longer waiting
        self.depth.take_input(value)
        if self.depth.targets_first:
            self.take_targets(self.depth.required_step(step))
        ask = self.depth.ready_steps if self.goes_back(step) else self.depth.on_skip
        ready = ask(step, output, labels)  # 4. ask each cut for its gradient
        corrections = self.depth.corrections(step)
        state_gradient = None if state is None else self.time.gradient(self.period.count(step), state, context, done)
        for each in ready:  # this step; with late gradients an earlier one, two, or none
            gradients = self.stage.backward(each.gradient, state_gradient, each.step)  # 5. one backward pass
            late, more = step - each.step, each is not ready[-1] or replying(corrections)  # 6. reply; update
            if not self.stage.replies_later and not self.piggyback.follows_update:
                self.answer(frame, gradients.activation, late=late, more=more)
            number = self.period.count(each.step)
            past = PastWindow(number, value, labels, context, reset, done, each.gradient, state, state_gradient)
            for target in self.bootstrap.targets(past, gradients.state):
                self.time.target(*target)
            correct(self.stage, self.upstream, frame, corrections)  # within the same update
            factor = (1 + late + self.depth.staleness) ** -self.staleness
            move = self.depth.ready and (self.time.ready or bool(done.all()))
            self.piggyback.before_update(step, each.step, move=move)
            self.stage.update(each.labels, move=move, factor=factor)
            if not self.stage.replies_later and self.piggyback.follows_update:
                self.answer(frame, gradients.activation, late=late, more=more)
        if not ready:
            self.answer(frame)
        self.take_targets(None if self.lag is None else step - self.lag)  # 7. fit the predictor to what came back
        if self.stage.replies_later:
            self.reply(frame)  # 8. send targets that were not ready at step 6
        self.recorder.step(step, count_rows(labels))  # records this step's rate, so the schedule comes after it
        if self.stage.schedule is not None:
            self.stage.schedule.step()  # of the run's steps: the same at all stages, whatever moved

    def rest(self, frame: Frame) -> None:
        """Pass on a window at which this stage does not work: only acknowledge it and forward losses."""
        self.pass_on(frame)
        if frame.kind is Kind.EVALUATE:
            self.upstream.finish(frame)
            return
        self.depth.measured = None
        self.answer(frame)
        self.take_targets(None if self.lag is None else frame.step - self.lag)
        self.recorder.step(frame.step, 0)
        if self.stage.schedule is not None:
            self.stage.schedule.step()

    def pass_on(self, frame: Frame, output: Value | None = None) -> None:
        """Send the frame and the output to the next stage. Blocks while W frames are unfinished there."""
        if self.downstream is not None:
            self.downstream.send(
                frame.kind, frame.step, {**self.period.passed(frame, output), **self.piggyback.onward()}
            )

    def take_targets(self, wait_for: int | None) -> None:
        """Give the depth cut the targets that have arrived, or wait for all up to and including a step's."""
        if self.downstream is None:
            return
        early, self.early_targets = self.early_targets, []
        for target in chain(early, self.downstream.targets(wait_for)):
            if wait_for is None or target.step <= wait_for:
                if target.gradient is not None:
                    self.depth.target(target.step - target.late, target.gradient)
                    self.stage.on_target(target.step - target.late, target.gradient)
                self.losses += target.losses
                self.piggyback.returned(target)
            else:
                self.early_targets.append(target)

    def reply(self, frame: Frame) -> None:
        """Finish a frame with the targets of earlier steps that are ready, or with none."""
        replies, step = self.stage.ready_replies(), frame.step
        for each in replies:
            late, more = step - each.step, each is not replies[-1]
            self.answer(frame, each.gradient, late=late, more=more)
        if not replies:
            self.answer(frame)

    def answer(self, frame: Frame, gradient: Value | None = None, *, late: int = 0, more: bool = False) -> None:
        """Finish a training step, with or without a target, and with the losses measured or received since the last."""
        if self.depth.measured is not None:
            self.losses.append(Loss(frame.step, *self.depth.measured))
        losses, self.losses = self.losses, []
        self.upstream.finish(frame, gradient, losses, late=late, more=more, piggybacked=self.piggyback.reply())

    def evaluate(self, frame: Frame) -> None:
        """Run one validation window forward."""
        value, labels, _ = split(frame, self.stage.device)
        output = self.stage.evaluate(value, frame.tensors["reset"])
        self.pass_on(frame, output)
        self.upstream.finish(frame)
        outputs = self.depth.evaluation_outputs(output, labels)
        if outputs is not None:
            self.recorder.validation(frame.step, outputs)
        self.recorder.measure(output, labels)

    def probe(self, frame: Frame) -> None:
        """Compare synthetic with exact gradients on a whole sequence, without a change to training."""
        self.drain()
        probe = Probe(self.stage, frame)
        gradient = probe.gradient(self.depth, self.downstream, self.piggyback.onward())
        self.upstream.finish(frame, probe.backward(gradient))
        self.recorder.probe(frame.step, probe.figures(self.depth, self.time))

    def checkpoint(self, frame: Frame) -> None:
        """Save a checkpoint when every target up to this step has arrived or is known to be lost."""
        self.pass_on(frame)
        self.drain()
        self.writer.save(frame.step, {self.recorder.index: self.state_dict()}, self.recorder.saving(frame.step))
        self.upstream.finish(frame)

    def end(self, frame: Frame) -> None:
        """Handle the last frame: wait until every later stage has finished."""
        self.pass_on(frame)
        self.drain()
        self.writer.finish()
        self.upstream.finish(frame)
        self.recorder.end(frame.step)

    def drain(self) -> None:
        """Wait until every frame sent is finished. With a lag, targets are kept for their step."""
        if self.downstream is not None:
            self.early_targets += self.downstream.drain()
            if self.lag is None:
                self.take_targets(None)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a checkpoint of this stage holds."""
        stage, depth, time = self.stage.state_dict(), self.depth.state_dict(), self.time.state_dict()
        rest: dict[str, Any] = {"early": self.early_targets, "losses": self.losses}
        rest |= {"upstream": self.upstream.state_dict(), "journal": self.recorder.state_dict()}
        rest |= {"clock": self.period.state_dict()} if self.period.every > 1 else {}
        rest |= {"piggyback": riding} if (riding := self.piggyback.state_dict()) else {}
        return {"stage": stage, "depth": depth, "time": time, "bootstrap": self.bootstrap.state_dict(), **rest}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.stage.load_state_dict(state["stage"])
        self.depth.load_state_dict(state["depth"])
        self.time.load_state_dict(state["time"])
        self.bootstrap.load_state_dict(state["bootstrap"])
        self.early_targets = [Target.restored(*target) for target in state["early"]]
        self.losses = [Loss(*loss) for loss in state["losses"]]
        self.piggyback.load_state_dict(state.get("piggyback", {}))
        self.upstream.load_state_dict(state["upstream"])
        self.recorder.load_state_dict(state.get("journal"))
        if self.period.every > 1:
            self.period.load_state_dict(state["clock"])
