from google.protobuf import struct_pb2 as _struct_pb2
from google.protobuf import wrappers_pb2 as _wrappers_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Request(_message.Message):
    __slots__ = ("api_name", "text", "json")
    API_NAME_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    api_name: str
    text: _wrappers_pb2.StringValue
    json: _struct_pb2.Value
    def __init__(self, api_name: _Optional[str] = ..., text: _Optional[_Union[_wrappers_pb2.StringValue, _Mapping]] = ..., json: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("text", "json")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    text: _wrappers_pb2.StringValue
    json: _struct_pb2.Value
    def __init__(self, text: _Optional[_Union[_wrappers_pb2.StringValue, _Mapping]] = ..., json: _Optional[_Union[_struct_pb2.Value, _Mapping]] = ...) -> None: ...

class ServiceMetadataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ServiceMetadataResponse(_message.Message):
    __slots__ = ("name", "apis", "docs")
    class DescriptorMetadata(_message.Message):
        __slots__ = ("descriptor_id", "attributes")
        DESCRIPTOR_ID_FIELD_NUMBER: _ClassVar[int]
        ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
        descriptor_id: str
        attributes: _struct_pb2.Struct
        def __init__(self, descriptor_id: _Optional[str] = ..., attributes: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ...) -> None: ...
    class InferenceAPI(_message.Message):
        __slots__ = ("name", "input", "output", "docs")
        NAME_FIELD_NUMBER: _ClassVar[int]
        INPUT_FIELD_NUMBER: _ClassVar[int]
        OUTPUT_FIELD_NUMBER: _ClassVar[int]
        DOCS_FIELD_NUMBER: _ClassVar[int]
        name: str
        input: ServiceMetadataResponse.DescriptorMetadata
        output: ServiceMetadataResponse.DescriptorMetadata
        docs: str
        def __init__(self, name: _Optional[str] = ..., input: _Optional[_Union[ServiceMetadataResponse.DescriptorMetadata, _Mapping]] = ..., output: _Optional[_Union[ServiceMetadataResponse.DescriptorMetadata, _Mapping]] = ..., docs: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    APIS_FIELD_NUMBER: _ClassVar[int]
    DOCS_FIELD_NUMBER: _ClassVar[int]
    name: str
    apis: _containers.RepeatedCompositeFieldContainer[ServiceMetadataResponse.InferenceAPI]
    docs: str
    def __init__(self, name: _Optional[str] = ..., apis: _Optional[_Iterable[_Union[ServiceMetadataResponse.InferenceAPI, _Mapping]]] = ..., docs: _Optional[str] = ...) -> None: ...
