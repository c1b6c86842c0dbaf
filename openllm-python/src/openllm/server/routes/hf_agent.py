"""`POST /hf/agent`: one step of an agent, as the agents of transformers 4 asked OpenLLM 0.3.5 for it.

There only where the model makes text. Today's agents speak /v1/chat/completions with tools; `client.ask_agent` does.
"""

from __future__ import annotations

import logging

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from openllm.service import Service
from openllm_core.errors import InvalidRequest
from openllm_core.options import ServerOptions
from openllm_core.schema import AgentRequest, GeneratedText
from openllm_core.serde import dumps

from ..body import adapter_header, ignored_header, read_message
from ..operation import BAD, BUSY, Operation
from ..sse import unless_left

_log = logging.getLogger("openllm.server")


def operations(service: Service, options: ServerOptions) -> list[Operation]:
    """The routes of this file: none where the model makes no text."""

    async def agent(request: Request) -> ASGIApp:
        if not service.serves_agents:
            raise InvalidRequest("This server's model serves no agents.", code="unknown_url")
        message = await read_message(request, AgentRequest, options)
        step = await unless_left(request.receive, service.agent(message))
        counts = f"{step.usage.prompt_tokens} tokens in, {step.usage.completion_tokens} out"
        _log.info("agent step %s: %s", request.scope["openllm.request_id"], counts)
        headers = ignored_header(step.ignored) | adapter_header(step.adapter)
        return Response(dumps(step.made), headers=headers, media_type="application/json")

    if not service.serves_agents:
        return []
    return [
        Operation(
            path="/hf/agent",
            methods=("POST",),
            endpoint=agent,
            summary="Complete one step of an agent, as Hugging Face's text-generation endpoints do.",
            tag="OpenLLM",
            request=AgentRequest,
            closed=True,
            response=list[GeneratedText],
            errors=("unknown_url", "adapter_not_found", *BAD, *BUSY),
            admits=True,
            example={"inputs": "The capital of France is", "parameters": {"max_new_tokens": 32}},
        )
    ]
