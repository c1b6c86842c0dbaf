"""`openllm.v1.OpenLLM`: each method turns its message into the schema's request, asks the service, and answers.

Called by gRPC, behind `gate`, which makes a status of every error. A call that is closed or past its deadline is cancelled
by gRPC, wherever it waits; what it had running is aborted in the engine on the way out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from openllm.access import require_admin, require_loading
from openllm.service import Answer, Service
from openllm_core.errors import DeadlineExceeded
from openllm_core.fields import column_of
from openllm_core.options import ServerOptions
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.schema import AdapterRequest, Delta
from openllm_core.serde import structure

from . import ignored, messages
from .untyped import OpenLLMServicer

if TYPE_CHECKING:
    from .untyped import Context


class Servicer(OpenLLMServicer):
    """The methods of the service, by their names in the .proto file."""

    def __init__(self, service: Service, options: ServerOptions) -> None:
        self._service = service
        self._options = options
        self._column = column_of(service.model.backend, service.model.family)

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> pb.GenerateResponse:  # noqa: N802
        """Complete a raw prompt."""
        with messages.named_as_sent():
            made = messages.generate_response(await self._service.generate(messages.generate_request(request)))
        ignored.tell(context, made.ignored)
        return made

    async def GenerateStream(self, request: pb.GenerateRequest, context: Context) -> None:  # noqa: N802
        """The same, as the text is made."""
        with messages.named_as_sent():
            answer = await self._service.generate_stream(messages.generate_request(request))
        try:
            if answer.ignored:
                names = [messages.as_sent(path) for path in answer.ignored]
                ignored.tell(context, names)
                await self._write(context, pb.GenerateChunk(ignored=names))
            for index in range(answer.n if answer.prompts else 0):
                await self._write(context, pb.GenerateChunk(index=index, text=answer.prompts[0]))
            running = answer.n
            async for delta in answer.deltas:
                chunk = messages.generate_chunk(delta)
                running -= delta.finish_reason is not None
                if not running:
                    chunk.usage.CopyFrom(messages.usage(answer.usage()))
                await self._write(context, chunk)
        finally:
            await answer.aclose()

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:  # noqa: N802
        """Answer a conversation."""
        with messages.named_as_sent(messages.as_sent_to_chat(request)):
            wanted = messages.chat_request(request, self._service.model.names[0], self._column)
            return messages.chat_response(await self._service.chat(wanted))

    async def ChatStream(self, request: pb.ChatRequest, context: Context) -> None:  # noqa: N802
        """The same, as the text is made."""
        with messages.named_as_sent(messages.as_sent_to_chat(request)):
            wanted = messages.chat_request(request, self._service.model.names[0], self._column)
            answer = await self._service.chat_stream(wanted)
        try:
            chunks = ChatChunks(answer)
            for index in range(answer.n):
                await self._write(context, chunks.begin(index))
            async for delta in answer.deltas:
                await self._write(context, chunks.of(delta))
            await self._write(context, chunks.end())
        finally:
            await answer.aclose()

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:  # noqa: N802
        """Vectors of texts."""
        with messages.named_as_sent(messages.as_sent_to_embed):
            made = await self._service.embed(list(request.texts))
        vectors = [pb.Embedding(values=vector) for vector in made.embeddings]
        return pb.EmbedResponse(embeddings=vectors, num_tokens=made.num_tokens)

    async def Metadata(self, request: pb.MetadataRequest, context: Context) -> pb.MetadataResponse:  # noqa: N802
        """What is served."""
        return messages.metadata_response(self._service.metadata())

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ModelsResponse:  # noqa: N802
        """The names a chat may be asked of."""
        return messages.models_response(self._service.models())

    # -- adapters -----------------------------------------------------------------------------------------------------

    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Context) -> pb.AdaptersResponse:  # noqa: N802
        """The adapters of this server."""
        return messages.adapters_response(self._service.adapters.show())

    async def SetDefaultAdapter(self, request: pb.AdapterRequest, context: Context) -> pb.AdaptersResponse:  # noqa: N802
        """What requests without an adapter's name get."""
        require_admin(self._options)
        return messages.adapters_response(self._service.adapters.set_default(_name(request)))

    async def LoadAdapter(self, request: pb.AdapterRequest, context: Context) -> pb.AdaptersResponse:  # noqa: N802
        """Load a stored adapter."""
        self._allow_loading()
        return messages.adapters_response(await self._service.adapters.load(_name(request)))

    async def UnloadAdapter(self, request: pb.AdapterRequest, context: Context) -> pb.AdaptersResponse:  # noqa: N802
        """Serve an adapter no longer."""
        self._allow_loading()
        return messages.adapters_response(await self._service.adapters.unload(_name(request)))

    async def _write(self, context: Context, message: Any) -> None:
        """Send one message of a stream.

        Raises:
            DeadlineExceeded: the client takes nothing any more.
        """
        stall_s = self._options.stall_timeout
        try:
            async with asyncio.timeout(stall_s):
                await context.write(message)
        except TimeoutError:
            raise DeadlineExceeded(f"The client took nothing for {stall_s:g} s.") from None

    def _allow_loading(self) -> None:
        require_loading(self._options, enabled=self._service.adapters.max_adapters > 0)
        self._service.ready()


class ChatChunks:
    """The messages of one streamed chat."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._facts: dict[str, Any] = {"id": answer.id, "created": answer.created, "model": answer.model}

    def begin(self, index: int) -> pb.ChatChunk:
        """Who speaks, in one choice."""
        return self._chunk(pb.ChunkChoice(index=index, delta=pb.ChatMessage(role="assistant")))

    def of(self, delta: Delta) -> pb.ChatChunk:
        """What is new, and how the choice ended if it did."""
        return self._chunk(
            pb.ChunkChoice(
                index=delta.index,
                delta=pb.ChatMessage(
                    content=delta.text or None,
                    reasoning_content=delta.reasoning,
                    tool_calls=[messages.tool_call(call) for call in delta.calls or ()],
                ),
                finish_reason=delta.finish_reason,
                logprobs=messages.logprobs(delta.logprobs) if delta.logprobs else None,
            )
        )

    def end(self) -> pb.ChatChunk:
        """Token counts."""
        return pb.ChatChunk(usage=messages.usage(self._answer.usage()), **self._facts)

    def _chunk(self, choice: pb.ChunkChoice) -> pb.ChatChunk:
        return pb.ChatChunk(choices=[choice], **self._facts)


def _name(request: pb.AdapterRequest) -> str:
    """The name in a request, judged as over HTTP."""
    return structure({"adapter_name": request.adapter_name}, AdapterRequest).adapter_name
