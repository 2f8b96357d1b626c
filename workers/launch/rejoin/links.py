"""The links of one stage to its neighbours, made anew when a neighbour was started again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

from dni.errors import DniError, PeerTimeout, WorkerLost
from workers.comm.lasting.replaceable_end import ReplaceableEnd
from workers.comm.transports.base import ChannelEnd, Listener
from workers.runtime.job import Job
from workers.runtime.links import connect, listen
from workers.system.background import background

log = logging.getLogger(__name__)

_LONG_S = 3600.0  # of one wait, which is repeated


class LastingLinks:
    """The links of one stage; `before` and `after` are its ends, None where there is no neighbour.

    Args:
        job: the run.
        index: of the stage.
        say: sends the supervisor a message.
        peer: waits for the address of the next stage, at most so many seconds.
        opened: closes what was opened.
    """

    def __init__(
        self, job: Job, index: int, say: Callable[..., None], peer: Callable[[float | None], str], opened: ExitStack
    ) -> None:
        self.job, self.index, self._say, self._peer, self._opened = job, index, say, peer, opened
        going = partial(say, event="going")
        self.before = ReplaceableEnd(f"stage {index - 1}", lambda step: going(step=step)) if index else None
        self.after = ReplaceableEnd(f"stage {index + 1}") if index < job.config.stages - 1 else None

    def lost(self, stage: int) -> None:
        """Give up the link to a neighbour that is lost and will be started again. In any thread."""
        end = self.before if stage < self.index else self.after
        if end is not None:
            end.give_up()

    def open(self) -> None:
        """Open both links; from then on, take those of neighbours that were started again. Raises as the transport."""
        timeout_s = self.job.config.transport.timeout_s
        if self.before is not None:
            listener = self._opened.enter_context(closing(listen(self.job, self.index)))
            self._say(event="listening", address=listener.address)
        if self.after is not None:
            self._begin(self.after, connect(self.job, self.index, self._peer(timeout_s)))
            self._follow("connect", partial(self._connect_again, self.after))
        if self.before is not None:
            self._begin(self.before, listener.accept(timeout_s))
            self._follow("accept", partial(self._accept_again, self.before, listener))

    def _begin(self, end: ReplaceableEnd, first: ChannelEnd) -> None:
        end.offer(first)
        end.renew()
        self._opened.enter_context(closing(end))

    def _connect_again(self, end: ReplaceableEnd) -> None:
        while True:
            try:
                end.offer(connect(self.job, self.index, self._peer(None)))
            except DniError as error:  # the supervisor knows if the new process is lost as well
                log.warning("stage %d: no new link: %s", self.index, error)

    def _accept_again(self, end: ReplaceableEnd, listener: Listener) -> None:
        while True:
            try:
                end.offer(listener.accept(_LONG_S))
            except PeerTimeout:
                continue
            except WorkerLost:  # the listener is closed
                return
            except DniError as error:  # a stranger
                log.warning("stage %d: no new link: %s", self.index, error)

    def _follow(self, name: str, work: Callable[[], None]) -> None:
        def died(error: Exception) -> None:
            log.error("stage %d takes no new links any more: %s", self.index, error)

        background(f"dni-{name}", work, died).start()
