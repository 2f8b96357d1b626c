from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_HANDSHAKE: _ClassVar[Kind]
    KIND_STEP: _ClassVar[Kind]
    KIND_EVALUATE: _ClassVar[Kind]
    KIND_CHECKPOINT: _ClassVar[Kind]
    KIND_END: _ClassVar[Kind]
    KIND_GRADIENT: _ClassVar[Kind]
    KIND_DONE: _ClassVar[Kind]
    KIND_PROBE: _ClassVar[Kind]
    KIND_CLOSE: _ClassVar[Kind]

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DTYPE_UNSPECIFIED: _ClassVar[DType]
    DTYPE_FLOAT32: _ClassVar[DType]
    DTYPE_FLOAT64: _ClassVar[DType]
    DTYPE_FLOAT16: _ClassVar[DType]
    DTYPE_BFLOAT16: _ClassVar[DType]
    DTYPE_INT8: _ClassVar[DType]
    DTYPE_INT16: _ClassVar[DType]
    DTYPE_INT32: _ClassVar[DType]
    DTYPE_INT64: _ClassVar[DType]
    DTYPE_UINT8: _ClassVar[DType]
    DTYPE_BOOL: _ClassVar[DType]
KIND_UNSPECIFIED: Kind
KIND_HANDSHAKE: Kind
KIND_STEP: Kind
KIND_EVALUATE: Kind
KIND_CHECKPOINT: Kind
KIND_END: Kind
KIND_GRADIENT: Kind
KIND_DONE: Kind
KIND_PROBE: Kind
KIND_CLOSE: Kind
DTYPE_UNSPECIFIED: DType
DTYPE_FLOAT32: DType
DTYPE_FLOAT64: DType
DTYPE_FLOAT16: DType
DTYPE_BFLOAT16: DType
DTYPE_INT8: DType
DTYPE_INT16: DType
DTYPE_INT32: DType
DTYPE_INT64: DType
DTYPE_UINT8: DType
DTYPE_BOOL: DType

class TensorSpec(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Handshake(_message.Message):
    __slots__ = ("protocol_version", "run_id", "stage", "stages", "fingerprint", "incarnation", "next_step", "link", "connection", "next_sequence", "proof")
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    protocol_version: int
    run_id: str
    stage: int
    stages: int
    fingerprint: str
    incarnation: int
    next_step: int
    link: int
    connection: int
    next_sequence: int
    proof: bytes
    def __init__(self, protocol_version: _Optional[int] = ..., run_id: _Optional[str] = ..., stage: _Optional[int] = ..., stages: _Optional[int] = ..., fingerprint: _Optional[str] = ..., incarnation: _Optional[int] = ..., next_step: _Optional[int] = ..., link: _Optional[int] = ..., connection: _Optional[int] = ..., next_sequence: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Ring(_message.Message):
    __slots__ = ("process", "descriptor", "inode", "nbytes")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTOR_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    process: int
    descriptor: int
    inode: int
    nbytes: int
    def __init__(self, process: _Optional[int] = ..., descriptor: _Optional[int] = ..., inode: _Optional[int] = ..., nbytes: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("kind", "step", "sequence", "done_through", "stage", "tensors", "handshake", "payload_crc32", "ring", "ring_position", "ring_freed")
    KIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DONE_THROUGH_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    HANDSHAKE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_CRC32_FIELD_NUMBER: _ClassVar[int]
    RING_FIELD_NUMBER: _ClassVar[int]
    RING_POSITION_FIELD_NUMBER: _ClassVar[int]
    RING_FREED_FIELD_NUMBER: _ClassVar[int]
    kind: Kind
    step: int
    sequence: int
    done_through: int
    stage: int
    tensors: _containers.RepeatedCompositeFieldContainer[TensorSpec]
    handshake: Handshake
    payload_crc32: int
    ring: Ring
    ring_position: int
    ring_freed: int
    def __init__(self, kind: _Optional[_Union[Kind, str]] = ..., step: _Optional[int] = ..., sequence: _Optional[int] = ..., done_through: _Optional[int] = ..., stage: _Optional[int] = ..., tensors: _Optional[_Iterable[_Union[TensorSpec, _Mapping]]] = ..., handshake: _Optional[_Union[Handshake, _Mapping]] = ..., payload_crc32: _Optional[int] = ..., ring: _Optional[_Union[Ring, _Mapping]] = ..., ring_position: _Optional[int] = ..., ring_freed: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("header_crc32", "header", "payload")
    HEADER_CRC32_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    header_crc32: int
    header: Header
    payload: bytes
    def __init__(self, header_crc32: _Optional[int] = ..., header: _Optional[_Union[Header, _Mapping]] = ..., payload: _Optional[bytes] = ...) -> None: ...
