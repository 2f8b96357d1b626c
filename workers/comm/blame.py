"""Find the stage that holds up a waiting one. Stages report it over their links, so messages name the first cause."""

from __future__ import annotations

from typing import NamedTuple

_LENGTH = 5  # bytes


class Blame(NamedTuple):
    """The stage that others wait for."""

    stage: int
    silent: bool  #: its process sends nothing; False: it is alive and busy

    def explain(self, neighbour: int) -> str:
        """Return the end of the message of a timeout while waiting for `neighbour`."""
        where = "it" if self.stage == neighbour else f"it waits for stage {self.stage}, which"
        if self.silent:
            return f"{where} is silent: is the process of stage {self.stage} stopped, or its machine down?"
        return f"{where} is alive, and at work: raise transport.timeout_s if that may take longer"


def write_blame(blame: Blame | None) -> bytes:
    """Encode as 5 bytes; None: the sender does not wait for a stage."""
    if blame is None:
        return bytes(_LENGTH)
    return (1 + blame.silent).to_bytes(1, "little") + blame.stage.to_bytes(_LENGTH - 1, "little")


def read_blame(data: memoryview) -> Blame | None:
    """Decode what `write_blame` wrote; bytes after it are ignored."""
    if not data[0]:
        return None
    return Blame(int.from_bytes(data[1:_LENGTH], "little"), data[0] == 2)
