"""What the first stage reads instead of an upstream edge: the schedule of a run."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from torch import Tensor

from dni.data.text import Corpus, Lanes, Window
from workers.config import Config
from workers.frame import Frame, Kind


class Feed:
    """Training windows in order, with validation passes, checkpoint marks and the end in their places.

    Has the calls of an upstream edge, so that the loop is the same for every stage.

    Args:
        config: batch, window, steps and how often to validate and to save.
        corpus: the text.
        start: steps that are already done (a resumed run).
        stop: once set, the run ends in good order after the step under way.
    """

    def __init__(self, config: Config, corpus: Corpus, *, start: int, stop: Event) -> None:
        data = config.data
        shape = {"batch": data.batch, "window": config.window, "lookahead": config.lookahead}
        self.train = Lanes(corpus.train, **shape, sequence=data.sequence)
        self.valid = Lanes(corpus.valid, **shape, sequence=data.sequence)
        self.config, self.start, self.stop = config, start, stop
        self._frames = self._schedule()

    def receive(self) -> Frame:
        """The next frame."""
        return next(self._frames)

    def finish(self, frame: Frame, gradient: Tensor | None = None) -> None:
        """Nobody is waiting for news of the first stage."""

    def pending(self) -> int:
        """The data never queues."""
        return 0

    def close(self) -> None:
        """Nothing to close."""

    def _schedule(self) -> Iterator[Frame]:
        step, every = self.start, self.config.checkpoint.every
        while step < self.config.steps and not self.stop.is_set():
            yield _frame(Kind.STEP, step + 1, self.train.window(step))
            step += 1
            if self._validates(step):
                yield from self._validation(step)
            if every and step % every == 0 and step < self.config.steps:
                yield Frame(Kind.MARK, step)
        yield Frame(Kind.MARK, step)
        yield Frame(Kind.END, step)

    def _validates(self, step: int) -> bool:
        every = self.config.evaluate.every
        return step == self.config.steps or bool(every and step % every == 0)

    def _validation(self, step: int) -> Iterator[Frame]:
        whole = self.valid.windows_per_pass
        for n in range(min(whole, self.config.evaluate.windows or whole)):
            yield _frame(Kind.EVALUATE, step, self.valid.window(n))


def _frame(kind: Kind, step: int, window: Window) -> Frame:
    tensors = {"value": window.inputs, "labels": window.labels, "reset": window.reset}
    return Frame(kind, step, tensors=tensors)
