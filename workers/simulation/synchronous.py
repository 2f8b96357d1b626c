"""Pipelines equivalent to one batch at a time: the order in which each stage runs the microbatches of a batch.

GPipe: Huang et al. 2019 (arXiv 1811.06965); 1F1B: Narayanan et al. 2021 (PipeDream-flush, arXiv 2006.09503);
interleaved: Narayanan et al. 2021 (arXiv 2104.04473); zero bubble: Qi et al. 2023, ZB-H1 (arXiv 2401.10241).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from dni.errors import ConfigError
from workers.simulation.events import Link, Network, Program, Stage


@dataclass(frozen=True)
class Pass:
    """One microbatch through one chunk of a stage, forward or backward."""

    forward: bool
    chunk: int = 0


def gpipe(stage: int, stages: int, microbatches: int) -> list[Pass]:
    """Return all forward passes, then all backward passes; with one microbatch, naive model parallelism."""
    return [Pass(True)] * microbatches + [Pass(False)] * microbatches


def one_f_one_b(stage: int, stages: int, microbatches: int) -> list[Pass]:
    """Return K - 1 - stage forward passes, then one forward and one backward in turn; at most K - stage are kept."""
    return _in_turn([Pass(True)] * microbatches, [Pass(False)] * microbatches, stages - 1 - stage)


def interleaved(stage: int, stages: int, microbatches: int, chunks: int) -> list[Pass]:
    """Return 1F1B over K * chunks virtual stages, in rounds of about K microbatches.

    Raises ConfigError for unequal rounds.
    """
    rounds = max(1, microbatches // stages)
    if microbatches % rounds:
        raise ConfigError(
            f"interleaved_1f1b runs {microbatches} microbatches through {stages} stages in {rounds} rounds, "
            "which must be equal: change --microbatches"
        )
    each = microbatches // rounds
    there = [Pass(True, chunk) for _ in range(rounds) for chunk in range(chunks) for _ in range(each)]
    back = [Pass(False, chunk) for _ in range(rounds) for chunk in reversed(range(chunks)) for _ in range(each)]
    return _in_turn(there, back, (chunks - 1) * each + 2 * (stages - 1 - stage))


def _in_turn(there: Sequence[Pass], back: Sequence[Pass], ahead: int) -> list[Pass]:
    ahead = min(ahead, len(there))
    pairs = [each for pair in zip(there[ahead:], back, strict=False) for each in pair]
    return [*there[:ahead], *pairs, *back[len(there) - ahead :]]


class Pipeline:
    """Run an order of passes on every stage, step after step.

    Args:
        split: run a backward pass as two: one for the input and, when the stage is idle, one for the weights
    """

    def __init__(self, network: Network, microbatches: int, chunks: int = 1, *, split: bool = False) -> None:
        self.network, self.chunks, self.split = network, chunks, split
        s = network.scenario
        self.last = s.stages - 1
        self.activation = [s.activation_at(cut) / microbatches for cut in range(s.stages)]
        self.gradient = [s.gradient_at(cut) / microbatches for cut in range(s.stages)]
        self.forward_s = [seconds / microbatches / chunks for seconds in s.forward_s]
        self.backward_s = [seconds / microbatches / chunks / (2 if split else 1) for seconds in s.backward_s]

    def program(self, index: int, order: Sequence[Pass]) -> Program:
        """Yield the waits of one stage's program."""
        stage = self.network.stages[index]
        for step in range(self.network.scenario.steps):
            owed = 0  # backward passes for the weights
            for each in order:
                source = self._source(index, each)
                while owed and (self._full(stage, each) or not (yield from _has_arrived(stage, source))):
                    owed -= self._weights(stage)
                if source is not None:
                    if not source.frames:
                        yield source
                    stage.take(source)
                self._run(stage, each)
                owed += self.split and not each.forward
            while owed:
                owed -= self._weights(stage)
            self.network.finished(stage, step)

    def _source(self, index: int, each: Pass) -> Link | None:
        if each.forward:
            return None if (index, each.chunk) == (0, 0) else self.network.down[index - 1]
        return None if (index, each.chunk) == (self.last, self.chunks - 1) else self.network.up[index]

    def _run(self, stage: Stage, each: Pass) -> None:
        index = stage.index
        stage.work((self.forward_s if each.forward else self.backward_s)[index])
        if each.forward:
            stage.hold(1)
            if (index, each.chunk) != (self.last, self.chunks - 1):
                stage.send(self.network.down[index], self.activation[index])
            return
        if not self.split:
            stage.hold(-1)
        if (index, each.chunk) != (0, 0):
            stage.send(self.network.up[index - 1], self.gradient[index - 1])

    def _full(self, stage: Stage, each: Pass) -> bool:
        """Return whether a forward pass would make this stage keep more activations than K, the most of 1F1B."""
        return each.forward and stage.holding > self.last

    def _weights(self, stage: Stage) -> int:
        """Run one backward pass for the weights and release its activation."""
        stage.work(self.backward_s[stage.index])
        stage.hold(-1)
        return 1


def _has_arrived(stage: Stage, source: Link | None) -> Generator[None, None, bool]:
    """Return whether the stage's next input has arrived."""
    yield None
    return source is None or (bool(source.frames) and source.frames[0][0] <= stage.now)
