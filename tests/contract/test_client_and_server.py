"""The real client against the real app: in process, and over a loopback socket. What one says the other understands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from tests.openllm.server.serving import URL, Served, listening, serving

from openllm_client import AsyncHTTPClient, HTTPClient
from openllm_core.errors import (
    BadRequest,
    NotFound,
    OpenLLMError,
    RateLimited,
    ServerError,
    StatusError,
    StreamInterrupted,
    TimedOut,
    Unauthorized,
)

REPLY = "Grüße, world 🙂!"
Way = Callable[..., Any]


@asynccontextmanager
async def in_process(**given: Any) -> AsyncIterator[tuple[Served, AsyncHTTPClient]]:
    """The asynchronous client over ASGI, without a socket."""
    key = given.pop("key", None)
    async with serving(**given) as served:
        transport = httpx.ASGITransport(served.composed.app)
        async with AsyncHTTPClient(URL, api_key=key, transport=transport, max_retries=0) as client:
            yield served, client


@asynccontextmanager
async def over_socket(**given: Any) -> AsyncIterator[tuple[Served, AsyncHTTPClient]]:
    """The asynchronous client over loopback."""
    key = given.pop("key", None)
    async with (
        serving(**given) as served,
        listening(served) as port,
        AsyncHTTPClient(f"http://127.0.0.1:{port}", api_key=key, max_retries=0) as client,
    ):
        yield served, client


ways = pytest.mark.parametrize("way", [in_process, over_socket])


@ways
async def test_generate_and_query(way: Way) -> None:
    """A completion reads back with its configuration, details and each form of `query`."""
    async with way(reply=REPLY) as (_, client):
        output = await client.generate("Hi", {"max_new_tokens": 50}, detail=True, temperature=0.5)
        assert output.responses == [REPLY]
        assert output.configuration["generation_config"]["temperature"] == 0.5
        assert await client.query("Hi", max_new_tokens=50) == REPLY
        raw = await client.query("Hi", "raw", max_new_tokens=50)
        assert set(raw) == {"responses", "configuration"}


@ways
async def test_streams_equal_one_shot_answers(way: Way) -> None:
    """Frames and chunks concatenate to what the one-shot calls answer, and usage agrees."""
    async with way(reply=REPLY) as (_, client):
        text, usage = "", None
        async for frame in client.generate_stream("Hi", {"max_new_tokens": 50}):
            text += frame.text
            usage = frame.usage or usage
        assert text == REPLY and usage is not None and usage.prompt_tokens == 2
        one_shot = await client.chat("Hi")
        assert one_shot.choices[0].message.content == REPLY
        text, counted = "", None
        async for chunk in await client.chat("Hi", stream=True, stream_options={"include_usage": True}):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
            counted = chunk.usage or counted
        assert text == REPLY and counted == one_shot.usage


@ways
async def test_facts_of_the_server(way: Way) -> None:
    """Metadata, models, health and configuration are understood."""
    async with way(reply=REPLY) as (_, client):
        await client.wait_until_ready(10)
        assert await client.livez()
        assert await client.health()
        metadata = await client.metadata()
        assert (metadata.model_id, metadata.model_name, metadata.backend) == ("echo", "llama", "echo")
        assert await client.model_name == "llama" and await client.timeout == 600
        assert (await client.configuration)["generation_config"]["max_new_tokens"] == 20
        assert (await client.config)["max_new_tokens"] == 20
        assert [card.id for card in await client.models()] == ["echo"]


@ways
async def test_refusals_arrive_typed(way: Way) -> None:
    """Each refusal is the right class, with status, code, field and request id."""
    async with way(reply=REPLY) as (_, client):
        cases: list[tuple[Coroutine[Any, Any, Any], type[StatusError], int, str, str | None]] = [
            (
                client.generate("Hi", {"temperature": 5}),
                BadRequest,
                400,
                "decimal_above_max_value",
                "llm_config.temperature",
            ),
            (client.generate("Hi", {"foo": 5}), BadRequest, 400, "unknown_parameter", "llm_config.foo"),
            (client.chat("Hi", temperature=-1.0), BadRequest, 400, "decimal_below_min_value", "temperature"),
            (client.chat([]), BadRequest, 400, "empty_array", "messages"),
            (client.chat("Hi", model="other"), NotFound, 404, "model_not_found", "model"),
            (client.chat("x" * 5000), BadRequest, 400, "context_length_exceeded", "messages"),
        ]
        for call, kind, status, code, param in cases:
            with pytest.raises(kind) as refused:
                await call
            error = refused.value
            assert (error.status, error.wire_code, error.param) == (status, code, param)
            assert error.request_id


@ways
async def test_keys(way: Way) -> None:
    """With the key all works; without or with a wrong one it is Unauthorized."""
    for key, allowed in (("right", True), ("wrong", False), (None, False)):
        async with way(options={"api_key": ("right",)}, key=key, reply="x") as (_, client):
            if allowed:
                assert (await client.chat("Hi")).choices[0].message.content == "x"
            else:
                with pytest.raises(Unauthorized) as refused:
                    await client.chat("Hi")
                assert refused.value.wire_code == "invalid_api_key"


@ways
async def test_a_stream_that_fails(way: Way) -> None:
    """What came before the failure is delivered; then the error is raised, never taken for an end."""
    async with way(reply="abcdef", fail_at=3) as (_, client):
        text = ""
        with pytest.raises((ServerError, StreamInterrupted)) as failed:
            async for frame in client.generate_stream("Hi"):
                text += frame.text
        assert text == "ab" and "scripted failure" in failed.value.message


async def test_overload_is_rate_limited() -> None:
    """A full line is RateLimited, with the time after which to try again."""
    async with over_socket(options={"max_queue": 1}, max_num_seqs=1, step_s=0.02, reply="a" * 500) as (served, client):
        running = [asyncio.create_task(client.generate("Hi", {"max_new_tokens": 400})) for _ in range(2)]
        async with asyncio.timeout(5):
            while served.composed.engine.queue_depth + served.composed.engine.num_running < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(RateLimited) as refused:
            await client.generate("Hi")
        assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_waiting_for_a_server_that_loads() -> None:
    """`wait_until_ready` outlasts loading; a short patience ends in TimedOut that says what was going on."""
    async with over_socket(ready=False, load_s=1.5, reply="x") as (_, client):
        with pytest.raises(TimedOut):
            await client.wait_until_ready(0.3)
        await client.wait_until_ready(20)
        assert await client.health()


async def test_leaving_a_stream_aborts_it() -> None:
    """Closing the stream early frees the slot at the server."""
    async with over_socket(reply="a" * 4000, step_s=0.02) as (served, client):
        stream = client.generate_stream("Hi", {"max_new_tokens": 3000})
        async with stream:
            async for _ in stream:
                break
        async with asyncio.timeout(2):
            while served.composed.engine.num_running:
                await asyncio.sleep(0.01)


async def test_the_synchronous_client() -> None:
    """The synchronous twin, from a thread, against the same server."""
    async with serving(reply=REPLY) as served, listening(served) as port:

        def talk() -> None:
            with HTTPClient(f"http://127.0.0.1:{port}", max_retries=0) as client:
                client.wait_until_ready(10)
                assert client.health() and client.model_name == "llama"
                assert client.query("Hi", max_new_tokens=50) == REPLY
                assert "".join(frame.text for frame in client.generate_stream("Hi", {"max_new_tokens": 50})) == REPLY
                assert client.chat("Hi").choices[0].message.content == REPLY
                chunks = list(client.chat("Hi", stream=True))
                assert "".join(c.delta.content or "" for chunk in chunks for c in chunk.choices) == REPLY
                with pytest.raises(NotFound):
                    client.chat("Hi", model="other")
                with pytest.raises(OpenLLMError) as refused:
                    client.generate("Hi", {"num_beams": 4})
                assert refused.value.param == "llm_config.num_beams"

        await asyncio.to_thread(talk)


async def test_the_openai_package() -> None:
    """OpenAI's own client: chat, streaming, usage, logprobs, completions, models and typed errors."""
    import openai

    async with serving(reply=REPLY, options={"api_key": ("k",)}) as served, listening(served) as port:
        async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "Hi"}]
            answer = await client.chat.completions.create(
                model="echo", messages=messages, logprobs=True, top_logprobs=1
            )
            assert answer.choices[0].message.content == REPLY and answer.usage is not None
            assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content is not None
            text, usage = "", None
            stream = await client.chat.completions.create(
                model="echo", messages=messages, stream=True, stream_options={"include_usage": True}
            )
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                usage = chunk.usage or usage
            assert text == REPLY and usage is not None and usage.total_tokens == answer.usage.total_tokens
            completion = await client.completions.create(model="echo", prompt=["a", "b"], max_tokens=50, logprobs=1)
            assert [choice.text for choice in completion.choices] == [REPLY, REPLY]
            assert [model.id async for model in client.models.list()] == ["echo"]
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="other", messages=messages)
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(model="echo", messages=messages, temperature=3)
            assert refused.value.param == "temperature" and refused.value.code == "decimal_above_max_value"
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0
        ) as stranger:
            with pytest.raises(openai.AuthenticationError):
                await stranger.models.list()


async def test_the_openai_package_and_a_stream_that_fails() -> None:
    """OpenAI's client raises APIError on our error event."""
    import openai

    async with (
        serving(reply="abcdef", fail_at=3) as served,
        listening(served) as port,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", max_retries=0) as client,
    ):
        text = ""
        with pytest.raises(openai.APIError):
            async for chunk in await client.completions.create(model="echo", prompt="x", stream=True):
                text += chunk.choices[0].text
        assert text == "ab"
