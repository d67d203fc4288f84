from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class Connect(_message.Message):
    __slots__ = ("device", "session", "silence")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SILENCE_FIELD_NUMBER: _ClassVar[int]
    device: str
    session: int
    silence: int
    def __init__(self, device: _Optional[str] = ..., session: _Optional[int] = ..., silence: _Optional[int] = ...) -> None: ...

class LWT(_message.Message):
    __slots__ = ("device", "delay", "session")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    device: str
    delay: int
    session: int
    def __init__(self, device: _Optional[str] = ..., delay: _Optional[int] = ..., session: _Optional[int] = ...) -> None: ...

class SensorData(_message.Message):
    __slots__ = ("device", "temp", "rh", "epoch")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    TEMP_FIELD_NUMBER: _ClassVar[int]
    RH_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    device: str
    temp: float
    rh: float
    epoch: int
    def __init__(self, device: _Optional[str] = ..., temp: _Optional[float] = ..., rh: _Optional[float] = ..., epoch: _Optional[int] = ...) -> None: ...
