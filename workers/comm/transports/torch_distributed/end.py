"""One end of a link by torch.distributed: threads that receive, and one that keeps what is being sent.

    end ── message, tensors, message, ... BYE ──> end
        <── message, ... SEEN ── BYE ── SEEN ──

Signs of life go beside these (`workers.comm.transports.torch_distributed.pulse`), until the BYE. An end that closes
says BYE, which comes after all that was sent; who has taken that in answers SEEN, and says BYE too.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

from dni.errors import PeerTimeout, WireError, WorkerLost
from workers.comm.blame import Blame
from workers.comm.codec import most_bytes, room_for
from workers.comm.frame import Frame
from workers.comm.roles import ON_DEVICE
from workers.comm.transports.process_link import LinkEnd, LinkSettings
from workers.comm.transports.staging import Leaving, staging_for
from workers.comm.transports.torch_distributed.at_exit import abandon_at_exit
from workers.comm.transports.torch_distributed.device_pair import DevicePair
from workers.comm.transports.torch_distributed.gloo import GlooPair, UnderWay, wait, why
from workers.comm.transports.torch_distributed.messages import BYE, SEEN, WORDS, messages
from workers.comm.transports.torch_distributed.packing import Arriving, pack, unpack
from workers.comm.transports.torch_distributed.pulse import ALIVE, Pulse
from workers.comm.transports.torch_distributed.sender import TENSORS, Sender
from workers.system.background import background

_MOMENT_S = 1.0  # for a thread to end

#: What comes in: a frame, a control byte, or the error that takes the place of a frame.
_Item: TypeAlias = Arriving | int | WireError


class TorchDistributedEnd(LinkEnd):
    """One end of a link to a stage; made by `torch_distributed_connect` and `TorchDistributedListener`.

    Frames are copied and handed to the group by the thread that sends them. Every frame is received right into the
    tensors that it will have. With a device pair, what stages compute with goes by that.
    """

    def __init__(
        self, pair: GlooPair, stage: int, where: str, settings: LinkSettings, device_pair: DevicePair | None
    ) -> None:
        self._pair, self._device_pair = pair, device_pair
        self._on_device = ON_DEVICE if device_pair else ()
        self._staging = None if device_pair else staging_for(settings.device)
        beside = device_pair or self._staging
        self._room = beside.room if beside else room_for
        super().__init__(f"stage {stage} at {where}", settings, beside.arrive if beside else None)
        self._leaving: queue.SimpleQueue[Leaving | None] = queue.SimpleQueue()
        self._said_bye = False
        self._bye, self._seen = threading.Event(), threading.Event()  # from the peer, or the link is lost
        self._saying = threading.Lock()
        self._sender = Sender(pair, settings.limit, self._lose, device_pair)
        self._begun = self._landed = 0  # frames
        self._landing: queue.SimpleQueue[tuple[list[UnderWay], _Item] | None] = queue.SimpleQueue()
        self._threads = [
            background(f"dni-{each.__name__[1:]}", each, self._lose)
            for each in (self._read, self._land, *([self._leave] if self._staging else []))
        ]
        self._pulse = Pulse(stage, settings.timeout_s, self._say_alive, self._lose)
        self._threads += [self._sender.thread, self._pulse.thread]
        for thread in self._threads:
            thread.start()
        abandon_at_exit(self)

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        if self._staging is None:
            packed = pack(frame, checksum=self._settings.checksum, on_device=self._on_device)
        self._check_size(frame, packed.nbytes if self._staging is None else most_bytes(frame))
        if not self._sender.may_send():
            self._raise_if_lost()
            raise self._crowded(frame)
        if self._staging is not None:
            self._leaving.put(self._staging.leave(frame))
        elif not self._sender.frame(packed.message, packed.apart, packed.on_device):
            self._raise_if_lost()  # not where it was taken: the peer may have answered and ended the link by now

    def receive(self, timeout: float | None) -> Frame:
        try:
            return super().receive(timeout)
        except PeerTimeout as error:
            raise PeerTimeout(f"{error}: {self._pulse.explain()}") from None

    def tell(self, whom: Callable[[], Blame | None]) -> None:
        self._pulse.tell(whom)

    def blamed(self) -> Blame:
        return self._pulse.blamed()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._say_bye()
        self._pulse.end()
        wait_s = self._pulse.patience(self._settings.timeout_s)
        both_heard = self._seen.wait(wait_s) and self._bye.wait(wait_s)
        self._sender.finish()
        if not both_heard:
            self._end()  # which ends the threads, too
        for thread in self._threads:
            thread.join(self._settings.timeout_s)
        self._end()
        self._inbox.fail(WorkerLost("this end of the link is closed"))

    def abandon(self) -> None:
        """End the link at once, sent or not."""
        self._closed = True
        self._sender.finish()
        self._leaving.put(None)
        self._end()
        for thread in self._threads:
            thread.join(_MOMENT_S)

    def _say_bye(self) -> None:
        with self._saying:
            said, self._said_bye = self._said_bye, True
        if not said and self._staging is not None:
            self._leaving.put(None)
        elif not said:
            self._sender.control(BYE)

    def _say_alive(self, sign: bytes) -> None:
        with self._saying:  # nothing but SEEN may follow a BYE
            if not self._said_bye:
                self._sender.control(ALIVE, sign)

    def _leave(self) -> None:
        """Hand over frames that come from a GPU, once they are here; last of all the BYE."""
        try:
            for leaving in iter(self._leaving.get, None):
                packed = pack(leaving.wait(), checksum=self._settings.checksum, own=True)
                self._sender.frame(packed.message, packed.apart)
            self._sender.control(BYE)
        except RuntimeError as error:  # of the GPU
            self._lose(error)

    def _read(self) -> None:
        """Take in messages, and make room for the tensors that follow them."""
        try:
            for message in messages(self._pair):
                if self._pulse.takes(message):
                    continue
                if message[0] in WORDS:
                    self._begin([], message[0])
                else:
                    limit = self._settings.max_frame
                    arriving = unpack(message, limit=limit, room=self._room, on_device=self._on_device)
                    self._begin(self._ask(arriving), arriving)
        except WireError as error:
            self._begin([], type(error)(f"malformed frame from {self._inbox.peer}: {error}"))
        except RuntimeError as error:
            self._lose(error)
        finally:
            self._landing.put(None)

    def _ask(self, arriving: Arriving) -> list[UnderWay]:
        """Have the tensors of a frame come."""
        works: list[UnderWay] = [self._pair.recv(tensor, TENSORS) for tensor in arriving.apart]
        if self._device_pair is not None:
            works += [self._device_pair.recv(tensor) for tensor in arriving.on_device]
        return works

    def _begin(self, works: list[UnderWay], item: _Item) -> None:
        """Deliver at once what need not wait, for its tensors or for what came before."""
        if works or self._begun != self._landed:
            self._begun += 1
            self._landing.put((works, item))
        else:
            self._deliver(item)

    def _land(self) -> None:
        """Wait for the tensors of frames, one frame after another."""
        try:
            for works, item in iter(self._landing.get, None):
                for work in works:
                    wait(work)
                self._deliver(item)
                self._landed += 1
        except RuntimeError as error:
            self._lose(error)

    def _deliver(self, item: _Item) -> None:
        if not isinstance(item, int):
            self._put(item)
        elif item == SEEN:
            self._seen.set()
        else:
            self._inbox.fail(WorkerLost(f"{self._inbox.peer} ended the link"))
            self._sender.control(SEEN)
            self._say_bye()
            self._bye.set()

    def _put(self, item: Arriving | WireError) -> None:
        """Into the inbox. What follows a malformed header cannot be told apart, so the link ends with it."""
        try:
            self._inbox.put(self._finished(item))
        except (WireError, WorkerLost) as error:  # more than may wait; or the link is lost
            self._stop(error)
        if isinstance(item, WireError):
            self._stop(WorkerLost(f"the link to {self._inbox.peer} ended with a malformed frame"))

    def _finished(self, item: Arriving | WireError) -> Frame | WireError:
        if isinstance(item, WireError):
            return item
        try:
            return item.finish()
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def _lose(self, error: Exception) -> None:
        """The peer is gone, or the link was ended here, or a thread of it is dead; whoever waits for either pair is
        woken. `error`: torch's RuntimeError, or what ended the thread."""
        by_torch = isinstance(error, RuntimeError)
        self._inbox.fail(WorkerLost(f"{self._inbox.peer} is gone ({why(error)})") if by_torch else error)
        self._end()
        self._seen.set()
        self._bye.set()

    def _stop(self, error: Exception) -> None:
        self._inbox.fail(error)
        self._end()

    def _end(self) -> None:
        self._pulse.end()
        self._pair.end()
        if self._device_pair is not None:
            self._device_pair.end()
