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
    │   ├── WrongTensor          a name, shape, element type or range that is not what was agreed
    │   ├── OutOfOrder           a frame skipped, repeated or sent in the wrong place
    │   ├── FlowControlError     a peer sent more than its credit
    │   └── HandshakeRefused     the two ends of an edge disagree about the run
    ├── WorkerLost               a neighbour or child process is gone
    │   ├── PeerTimeout          a neighbour is silent for longer than transport.timeout_s
    │   └── EndedEarly           a stage ended before its work was done
    ├── ThreadDied               a background thread ended with an error that was not foreseen
    ├── UsageError               `dni` called in a way that cannot work, or would learn nothing
    ├── DivergedError            a loss or gradient is not finite, or absurdly large
    ├── SystemRefused            the system refused a file, a process or the like
    │   └── OutOfMemory          it refused memory, or the GPU has no more
    └── CheckpointError          a checkpoint cannot be read, or is not of this run
        └── DamagedCheckpoint    a file of it is not as it was written

An indented class is a subclass of the one above it.
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


class WrongTensor(WireError):
    """A tensor whose name, shape, element type or range is not what both stages' settings say."""


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


class EndedEarly(WorkerLost):
    """A stage that ended before its work was done, whatever its exit status."""


class ThreadDied(DniError):
    """A background thread that ended with an error that was not foreseen."""


class UsageError(DniError, ValueError):
    """`dni` was called in a way that cannot work, or that would learn nothing."""


class DivergedError(DniError):
    """A loss or gradient that is not finite, or absurdly large."""


class SystemRefused(DniError):
    """The system refused a file, a process or the like."""


class OutOfMemory(SystemRefused):
    """The system refused memory, or the GPU has no more."""


class CheckpointError(DniError):
    """A checkpoint that cannot be read, or is not of this run."""


class DamagedCheckpoint(CheckpointError):
    """A checkpoint of which a file is not as it was written."""
