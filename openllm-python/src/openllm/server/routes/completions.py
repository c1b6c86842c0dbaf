"""`POST /v1/completions`, in OpenAI's shapes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import Completion, CompletionRequest
from openllm_core.serde import dumps

from ..body import COMPLETION_UNSUPPORTED, ignored_header, read_openai
from ..frames import CompletionFrames
from ..operation import BAD, BUSY, Operation
from ..sse import EventStream, unless_left


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def completions(request: Request) -> ASGIApp:
        message, ignored = await read_openai(
            request, CompletionRequest, COMPLETION_UNSUPPORTED, options, strict=options.strict
        )
        headers = ignored_header(ignored)
        if not message.stream:
            answer = await unless_left(request.receive, service.completions(message))
            return Response(dumps(answer), headers=headers, media_type="application/json")
        running = await unless_left(request.receive, service.completions_stream(message))
        include_usage = message.stream_options is not None and message.stream_options.include_usage
        frames = CompletionFrames(running, request.scope["openllm.request_id"], include_usage)
        return EventStream(running, frames, limits=options, headers=headers)

    return [
        Operation(
            path="/v1/completions",
            methods=("POST",),
            endpoint=completions,
            summary="Complete texts or token ids; no template is applied.",
            tag="OpenAI",
            request=CompletionRequest,
            closed=options.strict,
            response=Completion,
            event=Completion,
            errors=("model_not_found", "adapter_not_found", *BAD, *BUSY),
            admits=True,
            example={"model": service.model.names[0], "prompt": "The capital of France is", "max_tokens": 32},
        )
    ]
