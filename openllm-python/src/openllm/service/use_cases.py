"""Service: one method per use case. HTTP, gRPC and the Bento call it; it calls the engine.

Requests arrive as the classes of `openllm_core.schema` and leave as such, or as an `Answer` to stream. Text level; knows
no framework, no status number and no concrete backend.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from openllm.access import caller, urgency
from openllm.engine.request import EngineRequest
from openllm.observation import Operation, Transcript, current, note
from openllm.tools import TOOL_FORMATS, ChatForm
from openllm_core.config.llm import LLMConfig
from openllm_core.config.sampling import SamplingParams
from openllm_core.errors import (
    EngineLoading,
    EngineUnavailable,
    InvalidRequest,
    ShuttingDown,
)
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec
from openllm_core.fields import sampling_from_openai, to_sampling_params
from openllm_core.options import ServerOptions
from openllm_core.schema import (
    AgentRequest,
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingsOutput,
    GenerateRequest,
    GenerateResponse,
    GenerationDetails,
    Health,
    Metadata,
    ModelCard,
    ModelList,
)

from . import agents, answers
from .adapters import Chosen, ServedAdapters
from .answers import Answer, Choice, collect
from .chat import Talk
from .embeddings import EmbeddingService
from .requests import (
    check_completion,
    check_guide,
    check_messages,
    check_sampling,
    check_stream_options,
    prompts_of,
    sent_at,
)

if TYPE_CHECKING:
    from openllm.engine.embedder import Embedder
    from openllm.engine.pool import AnyEngine
    from openllm.engine.stream import RequestStream


POLL_S = 1.0


class Chat(Protocol):
    """Turns a conversation into a prompt; `openllm.chat.ChatRenderer` is one.

    Attributes:
        add_special_tokens: whether the tokenizer must add its own around the prompt.
    """

    add_special_tokens: bool

    async def start(self) -> None:
        """Get ready ahead of the first conversation."""
        ...

    async def render(self, messages: Sequence[dict[str, Any]], **variables: Any) -> str:
        """The prompt, with the assistant's turn opened."""
        ...

    async def aclose(self) -> None:
        """Free what is held."""
        ...


@attrs.frozen(kw_only=True)
class ServedModel:
    """What is served, in names.

    Attributes:
        model_id: as metadata shows it; never a path.
        names: accepted in `model`, the first one preferred.
        family: None for a model of no known family; `/v1/generate*` then takes the default family's fields.
        config: the server's own generation defaults, settled for the backend.
        backend: that runs it.
        generates: whether it makes text, as far as its files say.
        form: how it writes tool calls and reasoning.
        created: Unix time the server started.
    """

    model_id: str
    names: tuple[str, ...]
    config: LLMConfig
    backend: str
    family: FamilySpec | None = None
    generates: bool = True
    form: ChatForm = ChatForm(tools=TOOL_FORMATS["hermes"])
    created: int = attrs.field(factory=lambda: int(time.time()))


@attrs.frozen(kw_only=True)
class Generated:
    """What `/v1/generate` answers.

    Attributes:
        details: where `detail` was asked for.
        ignored: paths of fields that were accepted but have no effect on a server.
        adapter: that answered; None for the bare base.
        choices: the same as `response.responses`, before they took the type of the family.
    """

    response: GenerateResponse
    choices: Sequence[Choice]
    details: GenerationDetails | None = None
    ignored: tuple[str, ...] = ()
    adapter: str | None = None


class Service:
    """The use cases of one engine and model."""

    def __init__(
        self,
        engine: AnyEngine,
        *,
        model: ServedModel,
        server_options: ServerOptions,
        chat: Chat,
        embedder: Embedder,
        adapters: ServedAdapters | None = None,
    ) -> None:
        self.engine = engine
        self.model = model
        self.adapters = adapters or ServedAdapters(engine.adapters, models=model.names)
        self._options = server_options
        self._chat = chat
        self._embeddings = EmbeddingService(embedder, model, server_options)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to load the model, in the background."""
        await self.engine.start()
        await self._chat.start()

    async def drain(self, grace_s: float) -> None:
        """Take nothing new; wait up to `grace_s` for what runs; then end it."""
        await asyncio.gather(self.engine.drain(grace_s), self._embeddings.drain(grace_s))

    async def aclose(self) -> None:
        """Stop the engine and what renders chats."""
        try:
            await self.engine.aclose()
        finally:
            await self._chat.aclose()
            await self._embeddings.aclose()

    def check_room(self) -> None:
        """Refuse what the caller would be refused for as soon as its request were read: before it is.

        Raises:
            Overloaded, RateLimitExceeded: the line is full, or the caller's part of it.
        """
        self.engine.check_room(caller().tenant, urgency())

    def ready(self) -> Health:
        """Whether requests are taken now.

        Raises:
            EngineLoading, EngineUnavailable, ShuttingDown, Overloaded: why not, and for how long it may last.
        """
        engine = self.engine
        if engine.state == "ready":
            if (hindrance := engine.hindrance) is not None:
                hindrance.retry_after_s = POLL_S
                raise hindrance
            ready, count = engine.ready_of
            return Health(status="ready") if count == 1 else Health(status="ready", engines_ready=ready, engines=count)
        retry = POLL_S  # asking again costs nothing, and loading ends when it ends
        text, share = engine.progress
        doing = text if share is None else f"{text}, {share:.0%}"
        match engine.state:
            case "loading":
                raise EngineLoading(f"The model is loading: {doing}.", retry_after_s=retry)
            case "restarting":
                raise EngineUnavailable(f"The engine is being restarted: {doing}.", retry_after_s=retry)
            case "draining" | "closed":
                raise ShuttingDown("The server is shutting down.", retry_after_s=retry)
            case _:
                why = engine.failure.message if engine.failure is not None else "unknown"
                raise EngineUnavailable(f"The engine has failed: {why}")

    # -- facts --------------------------------------------------------------------------------------------------------

    def models(self) -> ModelList:
        """`GET /v1/models`: those that the caller's key may use."""
        length = self._context_length
        created, base = self.model.created, self.model.names[0]
        cards = [ModelCard(id=name, created=created, max_model_len=length) for name in self.model.names]
        allows = caller().allows
        root = base if allows(base) else None
        for name in self.adapters.names:
            cards.append(ModelCard(id=name, created=created, max_model_len=length, root=root))
        return ModelList(data=[card for card in cards if allows(card.id)])

    def metadata(self) -> Metadata:
        """`GET|POST /v1/metadata`: family names in 0.3.5's words, whose clients resolve them."""
        family = self.model.config.family
        return Metadata(
            model_id=self.model.model_id,
            timeout=int(self._options.server_timeout),
            model_name=registry.find(family.compat_family).model_name,
            backend=self.model.backend,
            configuration=self.model.config.model_dump_json().decode(),
            supports_embeddings=self._embeddings.available,
            supports_hf_agent=self.serves_agents,
            family=self.model.family.name if self.model.family else "",
            served_model_names=list(filter(caller().allows, self.model.names)),
            context_length=self._context_length,
        )

    @property
    def serves_agents(self) -> bool:
        """Whether the model completes the steps of an agent: whether it makes text at all."""
        info = self.engine.info
        return self.model.generates and (info is None or info.capabilities.generate)

    @property
    def _context_length(self) -> int | None:
        return self.engine.info.max_model_len if self.engine.info is not None else None

    # -- /v1/generate -------------------------------------------------------------------------------------------------

    async def generate(self, request: GenerateRequest) -> Generated:
        """Complete a raw prompt."""
        answer, effective = await self._start_generate(request)
        choices = await collect(answer)
        style = registry.find(effective.family.compat_family).response_style
        made = _as_family([choice.text for choice in choices], request.prompt, style)
        response = GenerateResponse(responses=made, configuration=effective.model_dump())
        details = self._details(answer, choices) if request.detail else None
        return Generated(
            response=response, choices=choices, details=details, ignored=answer.ignored, adapter=answer.adapter
        )

    async def generate_stream(self, request: GenerateRequest) -> Answer:
        """The same as a stream; the prompt comes first where `echo` was asked for."""
        answer, _ = await self._start_generate(request)
        return answer

    async def _start_generate(self, request: GenerateRequest) -> tuple[Answer, LLMConfig]:
        adapter = self.adapters.choose(request.adapter_name)
        self._note("text_completion", adapter)
        sampling, effective, ignored = to_sampling_params(
            request.llm_config,
            family=self.model.config.family,
            backend=self.model.backend,
            defaults=self.model.config,
        )
        check_sampling(sampling, self._options, "llm_config.")
        made = EngineRequest(
            prompt=request.prompt,
            sampling=sampling,
            family_stop_ids=self.model.config.family.eos_token_ids,
            adapter=adapter.key,
            deadline_s=self._options.server_timeout,
            max_tokens_default=effective["max_new_tokens"],
        )
        stream = await self._add(made, renamed=lambda name: sent_at(name, request.llm_config))
        echoed = [request.prompt] if request.echo else []
        model = adapter.name or self.model.names[0]
        return Answer("gen", model, sampling.n, [stream], echoed, ignored, adapter.name), effective

    def _details(self, answer: Answer, choices: Sequence[Choice]) -> GenerationDetails:
        logprobs = [answers.plain_logprobs(choice.logprobs) for choice in choices]
        return GenerationDetails(
            finish_reasons=[choice.finish_reason for choice in choices],
            usage=answer.usage(),
            logprobs=logprobs if any(logprobs) else None,
        )

    # -- /hf/agent ----------------------------------------------------------------------------------------------------

    async def agent(self, request: AgentRequest) -> agents.StepText:
        """Complete one step of an agent; a refusal names the field by its place in `parameters`."""
        wanted = agents.completion_of(request)
        with agents.parameters_named():
            answer, _ = await self._start_generate(wanted)
        choices = await collect(answer)
        return agents.StepText(
            made=agents.texts_of(request, choices),
            usage=answer.usage(),
            ignored=agents.in_parameters(answer.ignored),
            adapter=answer.adapter,
        )

    # -- chat ---------------------------------------------------------------------------------------------------------

    async def chat(self, request: ChatCompletionRequest) -> ChatCompletion:
        """One-shot chat completion."""
        answer = await self.chat_stream(request)
        choices = await collect(answer)
        return answers.chat_completion(answer, choices, logprobs=bool(request.logprobs))

    async def chat_stream(self, request: ChatCompletionRequest) -> Answer:
        """Chat completion as a stream."""
        # what is not there is said at once
        self._note("chat", self.adapters.choose_by_model(request.model, request.adapter_name))
        check_stream_options(request)
        check_messages(request.messages, self._options)
        sampling = self._sampling_of(request)
        talk = Talk.of(request, self.model.form)
        self.ready()  # before the work of rendering
        prompt = await self._chat.render(talk.messages, **talk.variables)
        sampling = attrs.evolve(sampling, guide=talk.guide(sampling.guide, prompt))
        check_guide(sampling.guide, self._options)  # one made of the tools
        adapter = self.adapters.choose_by_model(request.model, request.adapter_name)  # a reload may have come meanwhile
        special = self._chat.add_special_tokens
        made = self._engine_request(prompt, sampling, adapter, add_special_tokens=special)
        stream = await self._add(attrs.evolve(made, marks=talk.marks), prompt="messages")
        model, readers = adapter.name or request.model, talk.readers(prompt, sampling.n)
        return Answer("chatcmpl", model, sampling.n, [stream], adapter=adapter.name, readers=readers)

    # -- completions --------------------------------------------------------------------------------------------------

    async def completions(self, request: CompletionRequest) -> Completion:
        """One-shot completion of one or more prompts."""
        answer = await self.completions_stream(request)
        choices = await collect(answer)
        return answers.completion(answer, choices, logprobs=request.logprobs is not None)

    async def completions_stream(self, request: CompletionRequest) -> Answer:
        """Completion of one or more prompts as a stream: all are admitted or none."""
        adapter = self.adapters.choose_by_model(request.model, request.adapter_name)
        self._note("text_completion", adapter)
        check_stream_options(request)
        check_completion(request)
        sampling = self._sampling_of(request)
        prompts = prompts_of(request, sampling.n, self._options)
        wanted = [self._engine_request(prompt, sampling, adapter) for prompt in prompts]
        if len(wanted) > 1:
            wanted = [attrs.evolve(w, prompt_param=f"prompt[{i}]") for i, w in enumerate(wanted)]
        streams = await self._add_all(wanted)
        try:
            echoed = [p if isinstance(p, str) else await self.engine.decode(p) for p in prompts] if request.echo else []
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        model = adapter.name or request.model
        return Answer("cmpl", model, sampling.n, streams, echoed, adapter=adapter.name)

    # -- embeddings ---------------------------------------------------------------------------------------------------

    async def embed(self, texts: Sequence[str]) -> EmbeddingsOutput:
        """Vectors of bare texts, in 0.3.5's shape."""
        return await self._embeddings.plain(texts)

    async def embeddings(self, request: EmbeddingRequest) -> EmbeddingList:
        """Vectors of texts or token ids, in OpenAI's shape."""
        return await self._embeddings.openai(request)

    # -- to the engine ------------------------------------------------------------------------------------------------

    def _sampling_of(self, request: ChatCompletionRequest | CompletionRequest) -> SamplingParams:
        sampling = sampling_from_openai(request, defaults=self.model.config, backend=self.model.backend)
        named = "top_logprobs" if isinstance(request, ChatCompletionRequest) else "logprobs"
        return check_sampling(sampling, self._options, logprobs=named)

    def _note(self, operation: Operation, adapter: Chosen) -> None:
        """Say to whoever observes this request what it asks of the model, in names that are ours."""
        note(operation, self.model.names[0], adapter.name)

    def _engine_request(
        self, prompt: str | list[int], sampling: SamplingParams, adapter: Chosen, *, add_special_tokens: bool = True
    ) -> EngineRequest:
        return EngineRequest(
            prompt=prompt,
            sampling=sampling,
            family_stop_ids=self.model.config.family.eos_token_ids,
            add_special_tokens=add_special_tokens,
            adapter=adapter.key,
            deadline_s=self._options.server_timeout,
            max_tokens_default=self._options.max_tokens_default,
        )

    async def _add(
        self, request: EngineRequest, *, prompt: str = "prompt", renamed: Callable[[str], str] | None = None
    ) -> RequestStream:
        """Hand one request to the engine, as the caller's; a refusal names the field as the caller's route calls it."""
        try:
            return (await self._add_all([attrs.evolve(request, prompt_param=prompt)]))[0]
        except InvalidRequest as error:
            if error.param not in (None, prompt) and renamed is not None:
                error.param = renamed(error.param)
            raise

    async def _add_all(self, requests: Sequence[EngineRequest]) -> list[RequestStream]:
        """The same for requests that belong together: all are admitted or none."""
        streams = await self.engine.add_all([_as_callers(request) for request in requests])
        if (seen := current()) is not None:
            seen.streams.extend(streams)
        return streams


def _as_callers(request: EngineRequest) -> EngineRequest:
    """A request as that of whoever calls: with the key's name, as urgent as key and caller say, and observed as the call is."""
    who, seen = caller(), current()
    request = attrs.evolve(request, tenant=who.tenant, on_end=who.count, priority=urgency())
    if seen is not None:
        seen.sampling = request.sampling
        if seen.transcripts is not None:
            seen.transcripts.append(Transcript(request.prompt))
            request = attrs.evolve(request, transcript=seen.transcripts[-1])
    return request


def _as_family(texts: Sequence[str], prompt: str, style: str) -> list[Any]:
    """`responses` as 0.3.5's clients of that family take them apart."""
    match style:
        case "generated_text":
            return [{"generated_text": text} for text in texts]
        case "text_and_history" if len(texts) == 1:
            return [texts[0], [[prompt, texts[0]]]]  # they unpack the list itself, so it has room for one answer only
        case "text_and_history":
            return [[text, [[prompt, text]]] for text in texts]
        case _:
            return list(texts)
