"""`POST /v1/generate` and `/v1/generate_stream`: raw prompts with the family's own fields, as OpenLLM 0.3.5 had them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.errors import UnsupportedFeature
from openllm_core.options import ServerOptions
from openllm_core.schema import GenerateRequest, GenerateResponse, StreamFrame
from openllm_core.serde import dumps, unstructure

from ..body import adapter_header, ignored_header, read_message
from ..frames import Frames, GenerateFrames, TextFrames
from ..operation import BAD, BUSY, Operation
from ..sse import EventStream, unless_left

EXAMPLE = {"prompt": "The capital of France is", "llm_config": {"max_new_tokens": 32}}


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def generate(request: Request) -> ASGIApp:
        message = await read_message(request, GenerateRequest, options)
        made = await unless_left(request.receive, service.generate(message))
        body = unstructure(made.response)
        if made.details is not None:
            body["details"] = unstructure(made.details)
        return Response(
            dumps(body),
            headers=ignored_header(made.ignored) | adapter_header(made.adapter),
            media_type="application/json",
        )

    async def generate_stream(request: Request) -> ASGIApp:
        message = await read_message(request, GenerateRequest, options)
        answer = await unless_left(request.receive, service.generate_stream(message))
        frames: Frames
        if _wants_text(request):
            if answer.choices > 1:
                await answer.aclose()
                raise UnsupportedFeature("Plain text carries one choice only.", param="llm_config.n")
            frames = TextFrames(answer)
        else:
            frames = GenerateFrames(answer, request.scope["openllm.request_id"])
        headers = ignored_header(answer.ignored) | adapter_header(answer.adapter)
        return EventStream(answer, frames, limits=options, headers=headers)

    return [
        Operation(
            path="/v1/generate",
            methods=("POST",),
            endpoint=generate,
            summary="Complete a raw prompt; no template is applied. `details` comes with `detail: true`.",
            tag="OpenLLM",
            request=GenerateRequest,
            closed=True,
            response=GenerateResponse,
            errors=("adapter_not_found", *BAD, *BUSY),
            admits=True,
            example=EXAMPLE,
        ),
        Operation(
            path="/v1/generate_stream",
            methods=("POST",),
            endpoint=generate_stream,
            summary="The same as server-sent events; with `Accept: text/plain`, as bare text.",
            tag="OpenLLM",
            request=GenerateRequest,
            closed=True,
            event=StreamFrame,
            media="text/event-stream",
            errors=("adapter_not_found", *BAD, *BUSY),
            admits=True,
            example=EXAMPLE,
        ),
    ]


def _wants_text(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower()
    return accepted.partition(";")[0].strip() == "text/plain"
