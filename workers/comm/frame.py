"""What crosses an edge between two stages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from torch import Tensor

from dni.errors import HandshakeRefused


class Kind(enum.IntEnum):
    """What a frame is. Values equal the `Kind` enum of `proto/dni/v1/stage.proto`."""

    HANDSHAKE = 1  #: first frame each way (wire transports only)
    STEP = 2  #: downstream: activation, labels and resets of one training step
    EVALUATE = 3  #: downstream: the same of one validation window; no gradient comes back
    CHECKPOINT = 4  #: downstream: save a checkpoint now, after the step named
    END = 5  #: downstream: nothing follows
    GRADIENT = 6  #: upstream: the target gradient of the step named, or of so many before as "late" says
    DONE = 7  #: upstream: finished without a gradient; news of losses may come along
    PROBE = 8  #: downstream: a whole sequence, to measure with; its exact gradient comes back, and is no target


#: Version of the meaning of frames; both ends of an edge must have the same.
PROTOCOL_VERSION = 5


@dataclass(frozen=True)
class Handshake:
    """What the two ends of an edge must agree on before anything else is sent."""

    protocol_version: int
    run_id: str
    stage: int  #: the sender's index
    stages: int
    fingerprint: str  #: digest of model, data, method and seed
    incarnation: int  #: how many times this stage was started before; may differ
    next_step: int  #: the first training step this stage will take


def agree(client: Handshake, server: Handshake) -> None:
    """Raises HandshakeRefused, naming both sides' values, unless these are neighbouring stages of one run."""
    wrong = [
        f"{name} is {getattr(client, name)!r} at stage {client.stage} and {getattr(server, name)!r} at stage "
        f"{server.stage}"
        for name in ("protocol_version", "run_id", "stages", "fingerprint", "next_step")
        if getattr(client, name) != getattr(server, name)
    ]
    if client.stage != server.stage - 1:
        wrong.append(f"stage {client.stage} connected to stage {server.stage}, which follows {server.stage - 1}")
    if wrong:
        advice = "start all stages with the same version and configuration, from the same checkpoint"
        raise HandshakeRefused(f"handshake refused: {'; '.join(wrong)}: {advice}")


@dataclass
class Frame:
    """One message; only the fields its kind needs are set.

    `sequence` numbers the frames of one direction from 1 without gaps; `step` is the frame's training step.
    `done_through`, on frames that go upstream, is the last sequence number this stage has finished.
    """

    kind: Kind
    step: int = 0
    sequence: int = 0
    done_through: int = 0
    stage: int = 0  #: the sender's index
    #: by role: "value", "labels", "local_labels", "reset", "ends", "context", "index" (of a window in its validation
    #: pass), "windows" and "last" go downstream, "gradient", "late" and "losses" upstream
    tensors: dict[str, Tensor] = field(default_factory=dict)
    handshake: Handshake | None = None  #: set if and only if `kind` is HANDSHAKE
