"""Every error the project raises on purpose.

DniError
├── ConfigError              the user's settings: one line, exit code 2, nothing started
│   ├── PartitionError       a model cannot be cut as asked
│   ├── DataError            a data source is missing, empty or too short
│   └── ResumeError          a run folder cannot be continued as asked
├── WireError                what arrived is not what was agreed
│   ├── TruncatedFrame       fewer bytes than the frame announces
│   ├── CorruptHeader        the header does not match its checksum or its layout
│   ├── CorruptPayload       the tensors' bytes do not match their checksum
│   ├── UnknownDtype         an element type this version does not know
│   ├── BadShape             a negative or too large dimension
│   ├── SizeMismatch         a byte count that does not match the shapes
│   ├── OutOfOrder           a frame skipped, repeated or sent in the wrong place
│   ├── FlowControlError     a peer sent more than its credit
│   └── HandshakeRefused     the two ends of an edge disagree about the run
├── WorkerLost               a neighbour or child process is gone
│   └── PeerTimeout          a neighbour is silent for longer than transport.timeout_s
├── UsageError               `dni` called in a way that cannot work, or would learn nothing
├── DivergedError            a loss or gradient is no longer finite
└── CheckpointError          a checkpoint is incomplete or damaged
"""


class DniError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(DniError):
    """Settings that cannot be run as given."""


class PartitionError(ConfigError):
    """A model that cannot be cut as asked."""


class DataError(ConfigError):
    """A data source that is missing, empty or too short."""


class ResumeError(ConfigError):
    """A run folder that cannot be continued as asked."""


class WireError(DniError):
    """Something arrived that is not what was agreed."""


class TruncatedFrame(WireError):
    """Fewer bytes than the frame announces."""


class CorruptHeader(WireError):
    """A header that does not match its checksum or its layout."""


class CorruptPayload(WireError):
    """Tensor bytes that do not match their checksum."""


class UnknownDtype(WireError):
    """An element type this version does not know."""


class BadShape(WireError):
    """A negative or too large dimension."""


class SizeMismatch(WireError):
    """A byte count that does not match the shapes."""


class OutOfOrder(WireError):
    """A frame skipped, repeated or sent in the wrong place."""


class FlowControlError(WireError):
    """A peer sent more frames than its credit allows."""


class HandshakeRefused(WireError):
    """The two ends of an edge disagree about the run."""


class WorkerLost(DniError):
    """A neighbour or a child process is gone."""


class PeerTimeout(WorkerLost):
    """A neighbour has been silent for longer than allowed."""


class UsageError(DniError, ValueError):
    """`dni` was called in a way that cannot work, or that would learn nothing."""


class DivergedError(DniError):
    """A loss or gradient is no longer finite."""


class CheckpointError(DniError):
    """A checkpoint that is incomplete or damaged."""
