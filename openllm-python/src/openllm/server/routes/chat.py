"""`POST /v1/chat/completions`, in OpenAI's shapes."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.options import ServerOptions
from openllm_core.schema import ChatCompletion, ChatCompletionChunk, ChatCompletionRequest
from openllm_core.serde import dumps

from ..body import CHAT_UNSUPPORTED, ignored_header, read_openai
from ..frames import ChatFrames
from ..operation import BAD, BUSY, Operation
from ..sse import EventStream, unless_left


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file."""

    async def chat(request: Request) -> ASGIApp:
        message, ignored = await read_openai(
            request, ChatCompletionRequest, CHAT_UNSUPPORTED, options, strict=options.strict
        )
        headers = ignored_header(ignored)
        if not message.stream:
            answer = await unless_left(request.receive, service.chat(message))
            return Response(dumps(answer), headers=headers, media_type="application/json")
        running = await unless_left(request.receive, service.chat_stream(message))
        include_usage = message.stream_options is not None and message.stream_options.include_usage
        frames = ChatFrames(running, request.scope["openllm.request_id"], include_usage)
        return EventStream(running, frames, limits=options, headers=headers)

    return [
        Operation(
            path="/v1/chat/completions",
            methods=("POST",),
            endpoint=chat,
            summary="Answer a conversation, with the model's own chat template.",
            tag="OpenAI",
            request=ChatCompletionRequest,
            closed=options.strict,
            response=ChatCompletion,
            event=ChatCompletionChunk,
            errors=("model_not_found", "adapter_not_found", *BAD, *BUSY),
            admits=True,
            example={
                "model": service.model.names[0],
                "messages": [{"role": "user", "content": "What is the capital of France?"}],
                "max_tokens": 64,
            },
        )
    ]
