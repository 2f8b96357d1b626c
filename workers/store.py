"""The key-value store that torch's launchers bring along, and addresses of stages in it."""

from __future__ import annotations

from datetime import timedelta

from torch.distributed import DistError
from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from dni.errors import PeerTimeout
from workers.seat import Seat


def open_store(seat: Seat, stages: int, timeout_s: float) -> Store:
    """The store at MASTER_ADDR:MASTER_PORT; torchrun brings it along, else rank 0 does. Raises PeerTimeout."""
    url = f"env://?rank={seat.rank}&world_size={stages}"
    try:
        found, _, _ = next(rendezvous(url, timeout=timedelta(seconds=timeout_s)))
    except DistError as error:
        raise PeerTimeout(f"no store at MASTER_ADDR:MASTER_PORT within {timeout_s:g} s: {_first(error)}") from error
    store: Store = found
    return store


class Stored:
    """Addresses are kept in the engine's store, under the name of the run."""

    def __init__(self, seat: Seat, stages: int, run: str, timeout_s: float) -> None:
        self.timeout_s, self.prefix = timeout_s, f"dni/{run}"
        self.store = open_store(seat, stages, timeout_s)

    def publish(self, stage: int, address: str) -> None:
        self.store.set(f"{self.prefix}/stage-{stage}", address)

    def of(self, stage: int) -> str:
        try:
            return str(self.store.get(f"{self.prefix}/stage-{stage}").decode())
        except DistError as error:
            raise PeerTimeout(f"stage {stage} did not say within {self.timeout_s:g} s where it listens") from error


def _first(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
