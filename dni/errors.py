"""Every error the project raises on purpose.

    DniError
    ├── ConfigError              the user's settings: one line, exit code 2, nothing started
    │   ├── PartitionError       a model cannot be cut as asked
    │   ├── DataError            a data source is missing, empty or too short
    │   └── ResumeError          a run folder cannot be continued as asked
    ├── WireError                received data breaks the protocol
    │   ├── TruncatedFrame       fewer bytes than the frame announces
    │   ├── CorruptHeader        the header does not match its checksum or its layout
    │   ├── CorruptPayload       the tensors' bytes do not match their checksum
    │   ├── UnknownDtype         an element type this version does not know
    │   ├── BadShape             a negative or too large dimension
    │   ├── SizeMismatch         a byte count that does not match the shapes
    │   ├── WrongTensor          a name, shape, element type or range that the settings do not allow
    │   ├── OutOfOrder           a frame skipped, repeated or sent in the wrong place
    │   ├── FlowControlError     a peer sent more frames than its credit
    │   └── HandshakeRefused     the two ends of an edge disagree about the run
    ├── WorkerLost               a neighbour or child process has ended or lost its connection
    │   ├── PeerTimeout          a neighbour has been silent for longer than transport.timeout_s
    │   └── EndedEarly           a stage ended before its work was done
    ├── ThreadDied               a background thread ended with an unexpected error
    ├── UsageError               a call of `dni` that cannot work, or would learn nothing
    ├── DivergedError            a loss or gradient is not finite, or far too large
    ├── SystemRefused            the operating system refused a file, a process or the like
    │   └── OutOfMemory          the system refused memory, or the GPU has no more
    └── CheckpointError          a checkpoint cannot be read, or belongs to another run
        └── DamagedCheckpoint    a file of the checkpoint has changed since it was written

Indentation marks subclasses.
"""


class DniError(Exception):
    """Base class of every error that the project raises on purpose."""


class ConfigError(DniError):
    """Settings that cannot be run as given."""


class PartitionError(ConfigError):
    """A model that cannot be cut as asked."""


class DataError(ConfigError):
    """A data source that is missing, empty or too short."""


class ResumeError(ConfigError):
    """A run folder that cannot be continued as asked."""


class WireError(DniError):
    """Received data breaks the protocol."""


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


class WrongTensor(WireError):
    """A tensor whose name, shape, element type or range the settings of the two stages do not allow."""


class OutOfOrder(WireError):
    """A frame skipped, repeated or sent in the wrong place."""


class FlowControlError(WireError):
    """A peer sent more frames than its credit allows."""


class HandshakeRefused(WireError):
    """The two ends of an edge disagree about the run."""


class WorkerLost(DniError):
    """A neighbour or a child process has ended or lost its connection."""


class PeerTimeout(WorkerLost):
    """A neighbour has been silent for longer than `transport.timeout_s`."""


class EndedEarly(WorkerLost):
    """A stage that ended before its work was done, whatever its exit status."""


class ThreadDied(DniError):
    """A background thread ended with an unexpected error."""


class UsageError(DniError, ValueError):
    """A call of `dni` that cannot work, or that would learn nothing."""


class DivergedError(DniError):
    """A loss or gradient that is not finite, or far too large."""


class SystemRefused(DniError):
    """The operating system refused a file, a process or the like."""


class OutOfMemory(SystemRefused):
    """The system refused memory, or the GPU has no more."""


class CheckpointError(DniError):
    """A checkpoint that cannot be read, or belongs to another run."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint with a file that has changed since it was written."""
