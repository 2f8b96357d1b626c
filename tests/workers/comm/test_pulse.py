"""Who is named when stages wait in vain for each other: the one that all of them wait for."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest

from dni.errors import PeerTimeout
from tests.support.transports import SERVER, address_of, child
from workers.comm.blame import Blame, read_blame, write_blame
from workers.comm.edge import WaitTime
from workers.comm.neighbours import Neighbours
from workers.comm.transports.base import ChannelEnd
from workers.comm.transports.process_link import LinkSettings
from workers.comm.transports.torch_distributed.end import TorchDistributedEnd
from workers.comm.transports.torch_distributed.link import TorchDistributedListener, torch_distributed_connect

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@pytest.mark.parametrize("blame", [None, Blame(0, False), Blame(3, True), Blame(70_000, False)])
def test_a_sign_of_life_says_who_is_waited_for(blame: Blame | None) -> None:
    assert read_blame(memoryview(write_blame(blame) + b"what was there before")) == blame


class Stages:
    """Stages 0, 1, ... in this process, with links between them; each knows whom it waits for by its clock."""

    def __init__(self, opened: ExitStack, count: int, timeout_s: float = 2.0) -> None:
        self.clocks = [WaitTime() for _ in range(count)]
        self.ends: list[dict[int, ChannelEnd]] = [{} for _ in range(count)]
        for k in range(count - 1):
            mine = replace(SERVER, stage=k + 1)
            listener = opened.enter_context(
                closing(TorchDistributedListener(handshake=mine, settings=LinkSettings(timeout_s=timeout_s)))
            )
            down = torch_distributed_connect(
                listener.address, replace(mine, stage=k), LinkSettings(timeout_s=timeout_s)
            )
            self.ends[k][k + 1] = opened.enter_context(closing(down))
            self.ends[k + 1][k] = opened.enter_context(closing(listener.accept(10)))

    def acquainted(self) -> Stages:
        for k, ends in enumerate(self.ends):
            Neighbours(k, self.clocks[k], ends)
        return self

    def fall_silent(self, stage: int) -> None:
        """As if its process were stopped."""
        for end in self.ends[stage].values():
            assert isinstance(end, TorchDistributedEnd)
            end._pulse.end()


@pytest.fixture
def stages() -> Iterator[Stages]:
    with ExitStack() as opened:
        yield Stages(opened, 4).acquainted()


def test_a_stage_that_only_waits_itself_is_not_named(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 2, 3
    stages.fall_silent(3)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 3, which is silent"):
        stages.ends[0][1].receive(2.0)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 3 .*: it is silent: is the process of stage 3 stopped"):
        stages.ends[2][3].receive(0)


def test_a_stage_in_front_is_named_by_those_after_it(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 0, 1
    stages.fall_silent(0)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it waits for stage 0, which is silent"):
        stages.ends[3][2].receive(2.0)


def test_a_stage_that_works_for_too_long_is_not_called_silent(stages: Stages) -> None:
    stages.clocks[1].waited_for = 2
    with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 2, which is alive, and at wo"):
        stages.ends[0][1].receive(1.5)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it is alive, and at work: raise"):
        stages.ends[1][2].receive(0)


def test_two_that_wait_for_each_other_are_both_named(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 2, 1
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it waits for stage 1, which is alive"):
        stages.ends[1][2].receive(1.0)


@pytest.mark.long
def test_a_stopped_process_is_named_by_who_waits_for_one_that_waits_for_it() -> None:
    with child("torch_distributed", "listen", 2) as process, ExitStack() as opened:
        last = torch_distributed_connect(address_of(process), replace(SERVER, stage=1), LinkSettings(timeout_s=5))
        opened.enter_context(closing(last))
        stages = Stages(opened, 2, timeout_s=5)
        stages.ends[1][2] = last
        stages.acquainted().clocks[1].waited_for = 2
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 2, which is silent"):
            stages.ends[0][1].receive(5)
        start = time.monotonic()
        last.close()  # does not wait for its goodbye as long as for others'
        assert time.monotonic() - start < 4.5
        process.kill()
