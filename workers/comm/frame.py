"""Messages between two neighbouring stages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from torch import Tensor

from dni.errors import HandshakeRefused


class Kind(enum.IntEnum):
    """Kind of a frame. Values equal the `Kind` enum of `proto/dni/v1/stage.proto`."""

    HANDSHAKE = 1  #: first frame each way (wire transports only)
    STEP = 2  #: downstream: activation, labels and resets of one training step
    EVALUATE = 3  #: downstream: the same for one validation window; no gradient comes back
    CHECKPOINT = 4  #: downstream: save a checkpoint now, after `step`
    END = 5  #: downstream: last frame
    GRADIENT = 6  #: upstream: the target gradient of `step`, or of `step` minus the tensor "late"
    DONE = 7  #: upstream: finished without a gradient; may carry loss reports
    PROBE = 8  #: downstream: a whole sequence for measurements; its exact gradient comes back and is not a target
    CLOSE = 9  #: downstream: the link ends in order (gRPC, which does not tell a server whether a call was cut)


#: Version of the protocol; both ends of an edge must have the same.
PROTOCOL_VERSION = 6


@dataclass(frozen=True)
class Handshake:
    """First message of each end; the two ends must agree before they exchange other frames."""

    protocol_version: int
    run_id: str
    stage: int  #: the sender's index
    stages: int
    fingerprint: str  #: digest of model, data, method and seed
    incarnation: int  #: number of earlier starts of this stage; may differ
    next_step: int  #: first training step that this stage will take
    link: int = 0  #: drawn by the sender for each link: a process that was started again is not taken for the first
    connection: int = 0  #: number of the connection among those of the link; 0: the link is new
    next_sequence: int = 1  #: of the next frame that the sender expects; what comes before need not be sent again.
    #: 0, in a later connection: the sender had no answer to the ones before, and begins the link with this one
    proof: bytes = b""  #: of the run's secret (`workers.comm.transports.secret`); empty without one


def agree(client: Handshake, server: Handshake) -> None:
    """Raise HandshakeRefused, with the values of both sides, unless these are neighbouring stages of one run."""
    mismatches = [
        f"{name} is {getattr(client, name)!r} at stage {client.stage} and {getattr(server, name)!r} at stage "
        f"{server.stage}"
        for name in ("protocol_version", "run_id", "stages", "fingerprint", "next_step")
        if getattr(client, name) != getattr(server, name)
    ]
    if client.stage != server.stage - 1:
        mismatches.append(f"stage {client.stage} connected to stage {server.stage}, which follows {server.stage - 1}")
    if mismatches:
        advice = "start all stages with the same version and configuration, from the same checkpoint"
        raise HandshakeRefused(f"handshake refused: {'; '.join(mismatches)}: {advice}")


@dataclass
class Frame:
    """One message; only the fields that its kind needs are set.

    `sequence` numbers the frames of one direction from 1 without gaps. `step` is the frame's training step.
    `done_through` is the number of the last frame of the other direction that the sender is done with. Upstream: it has
    finished that frame, which returns credit. Downstream: it has read that reply.
    """

    kind: Kind
    step: int = 0
    sequence: int = 0
    done_through: int = 0
    stage: int = 0  #: the sender's index
    #: by role. Downstream: "value", "labels", "local_labels", "reset", "done", "context", "index" (of a window in its
    #: validation pass), "windows" and "last". Upstream: "gradient", "late" and "losses". Both: those of
    #: `workers.runtime.piggyback`.
    tensors: dict[str, Tensor] = field(default_factory=dict)
    handshake: Handshake | None = None  #: set if and only if `kind` is HANDSHAKE
