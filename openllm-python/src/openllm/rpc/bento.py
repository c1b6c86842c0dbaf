"""`bentoml.grpc.v1.BentoService`: what gRPC clients of OpenLLM 0.3.5 call, each API by its name in `Request.api_name`.

The calls are those of `/v1/generate`, `/v1/metadata` and `/v1/embeddings`, with the same JSON in and out, as far as a
`google.protobuf.Value` carries it: all its numbers are doubles, and whole ones are read as integers here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from openllm.service import Service
from openllm_core.errors import InvalidRequest
from openllm_core.schema import GenerateRequest
from openllm_core.serde import structure, structure_value, unstructure

from . import messages
from .proto import bentoml_v1_pb2 as pb
from .untyped import BentoServiceServicer

if TYPE_CHECKING:
    from .untyped import Context

JSON, TEXT = "bentoml.io.JSON", "bentoml.io.Text"
APIS = {
    "generate_v1": (JSON, JSON),
    "generate_stream_v1": (JSON, TEXT),
    "metadata_v1": (TEXT, JSON),
    "embeddings_v1": (JSON, JSON),
}
"""Name of each API -> kind of what it takes and gives, as 0.3.5 announced them."""


class BentoServicer(BentoServiceServicer):
    """The methods of the service, by their names in the .proto file."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._calls: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "generate_v1": self._generate,
            "metadata_v1": self._metadata,
            "embeddings_v1": self._embeddings,
        }

    async def Call(self, request: pb.Request, context: Context) -> pb.Response:  # noqa: N802
        """One call by its name.

        Raises:
            InvalidRequest: there is no such API, its answer is a stream, or the content does not fit.
        """
        call = self._calls.get(request.api_name)
        if call is None:
            streams = request.api_name == "generate_stream_v1"
            why = "streams, and this call has one answer" if streams else "is no API of this server"
            raise InvalidRequest(
                f"{request.api_name[:96]!r} {why}.",
                hint="openllm.v1.OpenLLM/GenerateStream streams." if streams else "/".join(self._calls),
                code="unknown_url",
                param="api_name",
            )
        kind, takes = request.WhichOneof("content"), APIS[request.api_name][0]
        if kind != "json" if takes == JSON else kind == "json":  # without a content, text is empty
            raise InvalidRequest(f"{request.api_name} takes {takes}.", code="invalid_type", param="content")
        content = messages.plain(request.json) if kind == "json" else request.text.value
        return pb.Response(json=messages.value(await call(content)))

    async def ServiceMetadata(  # noqa: N802
        self, request: pb.ServiceMetadataRequest, context: Context
    ) -> pb.ServiceMetadataResponse:
        """Which APIs there are."""
        made = pb.ServiceMetadataResponse(
            name=f"llm-{self._service.metadata().model_name.replace('_', '-')}-service",
            docs="OpenLLM over BentoML's protocol, for clients of 0.3.5.",
        )
        for name, (takes, gives) in APIS.items():
            api = made.apis.add(name=name)
            for side, kind in ((api.input, takes), (api.output, gives)):
                side.descriptor_id = kind
                if kind == JSON:  # its clients leave out an API whose descriptor has no arguments
                    side.attributes["args"] = {"has_pydantic_model": False, "has_json_encoder": False}
        return made

    async def _generate(self, content: Any) -> Any:
        made = await self._service.generate(structure(content, GenerateRequest))
        answer = unstructure(made.response)
        return answer | ({"details": unstructure(made.details)} if made.details is not None else {})

    async def _metadata(self, content: Any) -> Any:
        return unstructure(self._service.metadata())

    async def _embeddings(self, content: Any) -> Any:
        texts = structure_value([content] if isinstance(content, str) else content, list[str], path="input")
        return unstructure(await self._service.embed(texts))
