"""Who holds up a stage that waits: stages tell each other over their links, so that the first cause is named."""

from __future__ import annotations

from typing import NamedTuple

_WORD = 5  # bytes


class Blame(NamedTuple):
    """The stage that others wait for."""

    stage: int
    silent: bool  #: nothing is heard of its process; else it is alive, and at work

    def explain(self, neighbour: int) -> str:
        """What is added to the message of a stage that waited for its neighbour in vain."""
        where = "it" if self.stage == neighbour else f"it waits for stage {self.stage}, which"
        if self.silent:
            return f"{where} is silent: is the process of stage {self.stage} stopped, or its machine down?"
        return f"{where} is alive, and at work: raise transport.timeout_s if that may take longer"


def write_blame(blame: Blame | None) -> bytes:
    """A few bytes; None: the sender waits for nobody."""
    if blame is None:
        return bytes(_WORD)
    return (1 + blame.silent).to_bytes(1, "little") + blame.stage.to_bytes(_WORD - 1, "little")


def read_blame(data: memoryview) -> Blame | None:
    """The inverse of `write_blame`; what follows it is ignored."""
    if not data[0]:
        return None
    return Blame(int.from_bytes(data[1:_WORD], "little"), data[0] == 2)
