"""Timeouts name the stage that all waiting stages wait for."""

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
def test_a_heartbeat_says_which_stage_is_waited_for(blame: Blame | None) -> None:
    assert read_blame(memoryview(write_blame(blame) + b"bytes of an earlier message")) == blame


class Stages:
    """Stages 0, 1, ... in this process with links between them. Each stage's clock says which stage it waits for."""

    def __init__(self, stack: ExitStack, count: int, timeout_s: float = 2.0) -> None:
        self.clocks = [WaitTime() for _ in range(count)]
        self.ends: list[dict[int, ChannelEnd]] = [{} for _ in range(count)]
        for k in range(count - 1):
            handshake = replace(SERVER, stage=k + 1)
            listener = stack.enter_context(
                closing(TorchDistributedListener(handshake=handshake, settings=LinkSettings(timeout_s=timeout_s)))
            )
            down = torch_distributed_connect(
                listener.address, replace(handshake, stage=k), LinkSettings(timeout_s=timeout_s)
            )
            self.ends[k][k + 1] = stack.enter_context(closing(down))
            self.ends[k + 1][k] = stack.enter_context(closing(listener.accept(10)))

    def connect_neighbours(self) -> Stages:
        for k, ends in enumerate(self.ends):
            Neighbours(k, self.clocks[k], ends)
        return self

    def fall_silent(self, stage: int) -> None:
        """Stop the heartbeats of a stage, as if its process were stopped."""
        for end in self.ends[stage].values():
            assert isinstance(end, TorchDistributedEnd)
            end._heartbeat.end()


@pytest.fixture
def stages() -> Iterator[Stages]:
    with ExitStack() as stack:
        yield Stages(stack, 4).connect_neighbours()


def test_a_stage_that_is_itself_waiting_is_not_named(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 2, 3
    stages.fall_silent(3)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 3, which is silent"):
        stages.ends[0][1].receive(2.0)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 3 .*: it is silent: is the process of stage 3 stopped"):
        stages.ends[2][3].receive(0)


def test_an_earlier_stage_is_named_by_later_ones(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 0, 1
    stages.fall_silent(0)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it waits for stage 0, which is silent"):
        stages.ends[3][2].receive(2.0)


def test_a_stage_that_is_busy_for_too_long_is_not_called_silent(stages: Stages) -> None:
    stages.clocks[1].waited_for = 2
    with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 2, which is alive, and at wo"):
        stages.ends[0][1].receive(1.5)
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it is alive, and at work: raise"):
        stages.ends[1][2].receive(0)


def test_two_stages_that_wait_for_each_other_are_both_named(stages: Stages) -> None:
    stages.clocks[1].waited_for, stages.clocks[2].waited_for = 2, 1
    with pytest.raises(PeerTimeout, match=r"no frame from stage 2 .*: it waits for stage 1, which is alive"):
        stages.ends[1][2].receive(1.0)


@pytest.mark.long
def test_a_stopped_process_is_named_by_a_stage_that_waits_for_it_indirectly() -> None:
    with child("torch_distributed", "listen", 2) as process, ExitStack() as stack:
        last = torch_distributed_connect(address_of(process), replace(SERVER, stage=1), LinkSettings(timeout_s=5))
        stack.enter_context(closing(last))
        stages = Stages(stack, 2, timeout_s=5)
        stages.ends[1][2] = last
        stages.connect_neighbours().clocks[1].waited_for = 2
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(PeerTimeout, match=r"no frame from stage 1 .*: it waits for stage 2, which is silent"):
            stages.ends[0][1].receive(5)
        start = time.monotonic()
        last.close()  # waits a shorter time for the goodbye of a silent stage
        assert time.monotonic() - start < 4.5
        process.kill()
