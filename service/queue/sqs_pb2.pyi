from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SQSReceiveMessageRequest(_message.Message):
    __slots__ = ("visibility_timeout", "wait_time", "maximum_number_of_messages")
    VISIBILITY_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    WAIT_TIME_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_NUMBER_OF_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    visibility_timeout: int
    wait_time: int
    maximum_number_of_messages: int
    def __init__(self, visibility_timeout: _Optional[int] = ..., wait_time: _Optional[int] = ..., maximum_number_of_messages: _Optional[int] = ...) -> None: ...

class SQSResponseMessage(_message.Message):
    __slots__ = ("messageID", "messageBody", "subject", "headers", "data", "times_received", "time_sent_ms", "id")
    MESSAGEID_FIELD_NUMBER: _ClassVar[int]
    MESSAGEBODY_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TIMES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TIME_SENT_MS_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    messageID: str
    messageBody: str
    subject: str
    headers: _containers.RepeatedCompositeFieldContainer[SQSHeader]
    data: bytes
    times_received: int
    time_sent_ms: int
    id: str
    def __init__(self, messageID: _Optional[str] = ..., messageBody: _Optional[str] = ..., subject: _Optional[str] = ..., headers: _Optional[_Iterable[_Union[SQSHeader, _Mapping]]] = ..., data: _Optional[bytes] = ..., times_received: _Optional[int] = ..., time_sent_ms: _Optional[int] = ..., id: _Optional[str] = ...) -> None: ...

class SQSHeader(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class SQSReceiveMessageResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[SQSResponseMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[SQSResponseMessage, _Mapping]]] = ...) -> None: ...

class SQSDeleteMessageRequest(_message.Message):
    __slots__ = ("messageID",)
    MESSAGEID_FIELD_NUMBER: _ClassVar[int]
    messageID: str
    def __init__(self, messageID: _Optional[str] = ...) -> None: ...

class SQSDeleteMessagesRequest(_message.Message):
    __slots__ = ("messageIDs",)
    MESSAGEIDS_FIELD_NUMBER: _ClassVar[int]
    messageIDs: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, messageIDs: _Optional[_Iterable[str]] = ...) -> None: ...

class SQSChangeVisibilityRequest(_message.Message):
    __slots__ = ("messageIDs", "visibility_timeout")
    MESSAGEIDS_FIELD_NUMBER: _ClassVar[int]
    VISIBILITY_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    messageIDs: _containers.RepeatedScalarFieldContainer[str]
    visibility_timeout: int
    def __init__(self, messageIDs: _Optional[_Iterable[str]] = ..., visibility_timeout: _Optional[int] = ...) -> None: ...

class SQSResult(_message.Message):
    __slots__ = ("code", "error", "messageID")
    CODE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MESSAGEID_FIELD_NUMBER: _ClassVar[int]
    code: int
    error: str
    messageID: str
    def __init__(self, code: _Optional[int] = ..., error: _Optional[str] = ..., messageID: _Optional[str] = ...) -> None: ...

class SQSResultsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SQSResult]
    def __init__(self, results: _Optional[_Iterable[_Union[SQSResult, _Mapping]]] = ...) -> None: ...

class SQSStreamMessagesRequest(_message.Message):
    __slots__ = ("visibility_timeout", "maximum_number_of_messages")
    VISIBILITY_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_NUMBER_OF_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    visibility_timeout: int
    maximum_number_of_messages: int
    def __init__(self, visibility_timeout: _Optional[int] = ..., maximum_number_of_messages: _Optional[int] = ...) -> None: ...
