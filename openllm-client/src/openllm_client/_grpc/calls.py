"""Which method of openllm.v1 a call is. The one place where the routes of HTTP and the methods of gRPC stand side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from google.protobuf.message import DecodeError

from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

from .._errors import malformed, shown
from .._wire import Call
from . import replies, requests


@attrs.frozen
class Method:
    """One method of the service.

    Attributes:
        name: in the service.
        ask: makes the request of a call's body.
        answer: class of the answer, or of each message of the answer.
        make: makes the typed answer of one, given the body that was asked with; None = nothing of it is for the caller.
    """

    name: str
    ask: Callable[[Any], Any]
    answer: Any
    make: Callable[[Any, Any], Any]

    @property
    def path(self) -> str:
        """As it stands on the wire."""
        return f"/openllm.v1.OpenLLM/{self.name}"

    def parse(self, data: bytes) -> Any:
        """The message that some bytes are, or why they are none: the library would make a missing answer of what is raised here."""
        try:
            return self.answer.FromString(data)
        except DecodeError as error:
            return error

    def read(self, message: Any, body: Any) -> Any:
        """The typed answer of what `parse` gave.

        Raises:
            ClientError: it was no message.
        """
        if isinstance(message, DecodeError):
            raise malformed(f"The answer of {self.name} cannot be read: {shown(str(message))}.")
        return self.make(message, body)


METHODS: Mapping[tuple[str, str], Method] = {
    ("POST", "/v1/generate"): Method("Generate", requests.generate, pb.GenerateResponse, replies.generation),
    ("POST", "/v1/generate_stream"): Method("GenerateStream", requests.generate, pb.GenerateChunk, replies.frame),
    ("POST", "/v1/chat/completions"): Method("Chat", requests.chat, pb.ChatResponse, replies.chat),
    ("POST", "/v1/embeddings"): Method("Embed", requests.embed, pb.EmbedResponse, replies.embeddings),
    ("GET", "/v1/metadata"): Method("Metadata", lambda _: pb.MetadataRequest(), pb.MetadataResponse, replies.metadata),
    ("GET", "/v1/models"): Method("ListModels", lambda _: pb.ListModelsRequest(), pb.ModelsResponse, replies.models),
    ("GET", "/v1/adapters"): Method(
        "ListAdapters", lambda _: pb.ListAdaptersRequest(), pb.AdaptersResponse, replies.adapters
    ),
    ("POST", "/v1/adapters"): Method("SetDefaultAdapter", requests.adapter, pb.AdaptersResponse, replies.adapters),
    ("POST", "/v1/adapters/load"): Method("LoadAdapter", requests.adapter, pb.AdaptersResponse, replies.adapters),
    ("POST", "/v1/adapters/unload"): Method("UnloadAdapter", requests.adapter, pb.AdaptersResponse, replies.adapters),
}
CHAT_STREAM = Method("ChatStream", requests.chat, pb.ChatChunk, replies.chunk)


def method_of(call: Call[Any]) -> Method:
    """The method that does what a route does."""
    if call.stream and call.path == "/v1/chat/completions":
        return CHAT_STREAM
    return METHODS[call.method, call.path]
