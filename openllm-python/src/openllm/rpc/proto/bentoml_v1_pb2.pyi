from collections.abc import Iterable as _Iterable
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import wrappers_pb2 as _wrappers_pb2
from google.protobuf.internal import containers as _containers

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("api_name", "json", "text")
    API_NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    api_name: str
    text: _wrappers_pb2.StringValue
    json: _struct_pb2.Value
    def __init__(
        self,
        api_name: str | None = ...,
        text: _wrappers_pb2.StringValue | _Mapping | None = ...,
        json: _struct_pb2.Value | _Mapping | None = ...,
    ) -> None: ...

class Response(_message.Message):
    __slots__ = ("json", "text")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    text: _wrappers_pb2.StringValue
    json: _struct_pb2.Value
    def __init__(
        self, text: _wrappers_pb2.StringValue | _Mapping | None = ..., json: _struct_pb2.Value | _Mapping | None = ...
    ) -> None: ...

class ServiceMetadataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServiceMetadataResponse(_message.Message):
    __slots__ = ("apis", "docs", "name")
    class DescriptorMetadata(_message.Message):
        __slots__ = ("attributes", "descriptor_id")
        DESCRIPTOR_ID_FIELD_NUMBER: _ClassVar[int]
        ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        descriptor_id: str
        attributes: _struct_pb2.Struct
        def __init__(
            self, descriptor_id: str | None = ..., attributes: _struct_pb2.Struct | _Mapping | None = ...
        ) -> None: ...

    class InferenceAPI(_message.Message):
        __slots__ = ("docs", "input", "name", "output")
        NAME_FIELD_NUMBER: _ClassVar[int]
        INPUT_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_FIELD_NUMBER: _ClassVar[int]
        DOCS_FIELD_NUMBER: _ClassVar[int]
        name: str
        input: ServiceMetadataResponse.DescriptorMetadata
        output: ServiceMetadataResponse.DescriptorMetadata
        docs: str
        def __init__(
            self,
            name: str | None = ...,
            input: ServiceMetadataResponse.DescriptorMetadata | _Mapping | None = ...,
            output: ServiceMetadataResponse.DescriptorMetadata | _Mapping | None = ...,
            docs: str | None = ...,
        ) -> None: ...

    NAME_FIELD_NUMBER: _ClassVar[int]
    APIS_FIELD_NUMBER: _ClassVar[int]
    DOCS_FIELD_NUMBER: _ClassVar[int]
    name: str
    apis: _containers.RepeatedCompositeFieldContainer[ServiceMetadataResponse.InferenceAPI]
    docs: str
    def __init__(
        self,
        name: str | None = ...,
        apis: _Iterable[ServiceMetadataResponse.InferenceAPI | _Mapping] | None = ...,
        docs: str | None = ...,
    ) -> None: ...
