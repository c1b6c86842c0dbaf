"""`POST /v1/embeddings`: a bare array of texts, as OpenLLM 0.3.5 had it, or OpenAI's request; the body tells them apart."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import EmbeddingList, EmbeddingRequest, EmbeddingsOutput
from openllm_core.serde import dumps, structure_value

from ..body import ignored_header, openai_message, read_json
from ..operation import BAD, BUSY, Operation
from ..sse import unless_left

ANSWER = EmbeddingsOutput | EmbeddingList
BODY = EmbeddingRequest | list[str] | str


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def embeddings(request: Request) -> ASGIApp:
        data = await read_json(request, options)
        if isinstance(data, dict):
            message, ignored = openai_message(data, EmbeddingRequest, {}, strict=options.strict)
            answer: Any = await unless_left(request.receive, service.embeddings(message))
        else:
            texts = structure_value([data] if isinstance(data, str) else data, list[str], path="input")
            answer, ignored = await unless_left(request.receive, service.embed(texts)), []
        return Response(dumps(answer), headers=ignored_header(ignored), media_type="application/json")

    return [
        Operation(
            path="/v1/embeddings",
            methods=("POST",),
            endpoint=embeddings,
            summary="Embed texts: OpenAI's request, or a bare array of texts, which is answered as OpenLLM 0.3.5 did.",
            tag="OpenAI",
            request=BODY,
            closed=options.strict,
            response=ANSWER,
            errors=("model_not_found", *BAD, *BUSY),
            example={"model": service.model.names[0], "input": ["first text", "second text"]},
        )
    ]
