"""One end of a link over torch.distributed: threads that receive, and one that keeps tensors until they are sent.

    end ── message, tensors, message, ... BYE ──> end
        <── message, ... SEEN ── BYE ── SEEN ──

Heartbeats (`workers.comm.transports.torch_distributed.heartbeat`) are sent in between, until the BYE. An end that
closes sends BYE after all its frames. The peer replies to a BYE with SEEN and its own BYE.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeAlias

from dni.errors import PeerTimeout, WireError, WorkerLost
from workers.comm.blame import Blame
from workers.comm.codec import max_encoded_bytes, new_tensor
from workers.comm.frame import Frame
from workers.comm.roles import ON_DEVICE
from workers.comm.transports.process_link import LinkEnd, LinkSettings
from workers.comm.transports.staging import PendingCopy, staging_for
from workers.comm.transports.torch_distributed.at_exit import abandon_at_exit
from workers.comm.transports.torch_distributed.device_pair import DevicePair
from workers.comm.transports.torch_distributed.gloo import GlooPair, Waitable, error_text, wait
from workers.comm.transports.torch_distributed.heartbeat import ALIVE, Heartbeat
from workers.comm.transports.torch_distributed.messages import BYE, CONTROL_BYTES, SEEN, messages
from workers.comm.transports.torch_distributed.packing import Arriving, pack, unpack
from workers.comm.transports.torch_distributed.sender import TENSORS, Sender
from workers.system.background import background

_JOIN_S = 1.0  # wait for a thread to end

#: A received frame, a control byte, or an error in place of a frame.
_Item: TypeAlias = Arriving | int | WireError


class TorchDistributedEnd(LinkEnd):
    """One end of a link, made by `torch_distributed_connect` and `TorchDistributedListener`.

    The calling thread copies the frames it sends and passes them to the group. Frames are received directly into their
    final tensors. A device pair, if there is one, carries the tensors of `ON_DEVICE`.
    """

    def __init__(
        self, pair: GlooPair, stage: int, where: str, settings: LinkSettings, device_pair: DevicePair | None
    ) -> None:
        self._pair, self._device_pair = pair, device_pair
        self._on_device = ON_DEVICE if device_pair else ()
        self._staging = None if device_pair else staging_for(settings.device)
        copier = device_pair or self._staging
        self._allocate = copier.allocate if copier else new_tensor
        super().__init__(f"stage {stage} at {where}", settings, copier.on_take if copier else None)
        self._copies: queue.SimpleQueue[PendingCopy | None] = queue.SimpleQueue()
        self._bye_sent = False
        self._bye_received, self._bye_seen = threading.Event(), threading.Event()  # also set if the link is lost
        self._bye_lock = threading.Lock()
        self._sender = Sender(pair, settings.limit, self._fail_link, device_pair)
        self._started = self._completed = 0  # number of frames
        self._incoming: queue.SimpleQueue[tuple[list[Waitable], _Item] | None] = queue.SimpleQueue()
        self._threads = [
            background(f"dni-{each.__name__[1:]}", each, self._fail_link)
            for each in (self._read, self._complete, *([self._send_copies] if self._staging else []))
        ]
        self._heartbeat = Heartbeat(stage, settings.timeout_s, self._send_heartbeat, self._fail_link)
        self._threads += [self._sender.thread, self._heartbeat.thread]
        for thread in self._threads:
            thread.start()
        abandon_at_exit(self)

    def send(self, frame: Frame) -> None:
        self._check_open(frame)
        if self._staging is None:
            packed = pack(frame, checksum=self._settings.checksum, on_device=self._on_device)
        self._check_size(frame, packed.nbytes if self._staging is None else max_encoded_bytes(frame))
        if not self._sender.acquire_slot():
            self._raise_if_lost()
            raise self._crowded(frame)
        if self._staging is not None:
            self._copies.put(self._staging.start_copy(frame))
        elif not self._sender.frame(packed.message, packed.apart, packed.on_device):
            self._raise_if_lost()  # only if not sent: the peer may have replied and ended the link by now

    def receive(self, timeout: float | None) -> Frame:
        try:
            return super().receive(timeout)
        except PeerTimeout as error:
            raise PeerTimeout(f"{error}: {self._heartbeat.explain()}") from None

    def set_blame_source(self, source: Callable[[], Blame | None]) -> None:
        self._heartbeat.set_blame_source(source)

    def blame(self) -> Blame:
        return self._heartbeat.blame()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._send_bye()
        self._heartbeat.end()
        wait_s = self._heartbeat.goodbye_timeout(self._settings.timeout_s)
        goodbye_done = self._bye_seen.wait(wait_s) and self._bye_received.wait(wait_s)
        self._sender.finish()
        if not goodbye_done:
            self._end()  # this ends the threads, too
        for thread in self._threads:
            thread.join(self._settings.timeout_s)
        self._end()
        self._inbox.fail(WorkerLost("this end of the link is closed"))

    def abandon(self) -> None:
        """End the link at once, without delivering queued frames."""
        self._closed = True
        self._sender.finish()
        self._copies.put(None)
        self._end()
        for thread in self._threads:
            thread.join(_JOIN_S)

    def _send_bye(self) -> None:
        with self._bye_lock:
            already_sent, self._bye_sent = self._bye_sent, True
        if not already_sent and self._staging is not None:
            self._copies.put(None)
        elif not already_sent:
            self._sender.control(BYE)

    def _send_heartbeat(self, heartbeat: bytes) -> None:
        with self._bye_lock:  # only SEEN may follow a BYE
            if not self._bye_sent:
                self._sender.control(ALIVE, heartbeat)

    def _send_copies(self) -> None:
        """Send the frames of a stage on a GPU when their copies are complete; at the end, send the BYE."""
        try:
            for copy in iter(self._copies.get, None):
                packed = pack(copy.wait(), checksum=self._settings.checksum, owned=True)
                self._sender.frame(packed.message, packed.apart)
            self._sender.control(BYE)
        except RuntimeError as error:  # from the GPU
            self._fail_link(error)

    def _read(self) -> None:
        """Receive messages, and post receives for the tensors that follow them."""
        try:
            for message in messages(self._pair):
                if self._heartbeat.handle(message):
                    continue
                if message[0] in CONTROL_BYTES:
                    self._queue([], message[0])
                else:
                    limit = self._settings.max_frame
                    arriving = unpack(message, limit=limit, allocate=self._allocate, on_device=self._on_device)
                    self._queue(self._post_receives(arriving), arriving)
        except WireError as error:
            self._queue([], type(error)(f"malformed frame from {self._inbox.peer}: {error}"))
        except RuntimeError as error:
            self._fail_link(error)
        finally:
            self._incoming.put(None)

    def _post_receives(self, arriving: Arriving) -> list[Waitable]:
        """Post receives for the separate tensors of a frame."""
        works: list[Waitable] = [self._pair.recv(tensor, TENSORS) for tensor in arriving.apart]
        if self._device_pair is not None:
            works += [self._device_pair.recv(tensor) for tensor in arriving.on_device]
        return works

    def _queue(self, works: list[Waitable], item: _Item) -> None:
        """Deliver an item at once, or queue it if it or an earlier item waits for tensors."""
        if works or self._started != self._completed:
            self._started += 1
            self._incoming.put((works, item))
        else:
            self._deliver(item)

    def _complete(self) -> None:
        """Wait for the tensors of queued items and deliver these, in order."""
        try:
            for works, item in iter(self._incoming.get, None):
                for work in works:
                    wait(work)
                self._deliver(item)
                self._completed += 1
        except RuntimeError as error:
            self._fail_link(error)

    def _deliver(self, item: _Item) -> None:
        if not isinstance(item, int):
            self._put(item)
        elif item == SEEN:
            self._bye_seen.set()
        else:
            self._inbox.fail(WorkerLost(f"{self._inbox.peer} ended the link"))
            self._sender.control(SEEN)
            self._send_bye()
            self._bye_received.set()

    def _put(self, item: Arriving | WireError) -> None:
        """Put an item into the inbox. End the link after a malformed header, as later bytes cannot be parsed."""
        try:
            self._inbox.put(self._finish(item))
        except (WireError, WorkerLost) as error:  # too many frames wait, or the link is lost
            self._stop(error)
        if isinstance(item, WireError):
            self._stop(WorkerLost(f"the link to {self._inbox.peer} ended with a malformed frame"))

    def _finish(self, item: Arriving | WireError) -> Frame | WireError:
        if isinstance(item, WireError):
            return item
        try:
            return item.finish()
        except WireError as error:
            return type(error)(f"malformed frame from {self._inbox.peer}: {error}")

    def _fail_link(self, error: Exception) -> None:
        """Fail the link and wake all threads that wait for it.

        `error`: a RuntimeError of torch (the peer is gone or the link has ended), or the error that ended a thread.
        """
        from_torch = isinstance(error, RuntimeError)
        self._inbox.fail(WorkerLost(f"{self._inbox.peer} is gone ({error_text(error)})") if from_torch else error)
        self._end()
        self._bye_seen.set()
        self._bye_received.set()

    def _stop(self, error: Exception) -> None:
        self._inbox.fail(error)
        self._end()

    def _end(self) -> None:
        self._heartbeat.end()
        self._pair.end()
        if self._device_pair is not None:
            self._device_pair.end()
