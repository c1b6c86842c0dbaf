"""The gRPC clients against a real server over the echo backend: the answers and errors that the HTTP clients get from it."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
from tests.openllm.rpc.calling import calling
from tests.openllm.server.serving import listening

from openllm_client import AsyncGrpcClient, AsyncHTTPClient, GrpcClient, HTTPClient
from openllm_core.errors import (
    BadRequest,
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    InvalidSetting,
    NotFound,
    OpenLLMError,
    RateLimited,
    StreamInterrupted,
    TimedOut,
    Unauthorized,
    UnsupportedFeature,
)

REPLY = "Grüße, world 🙂!"
KINDS = {"http": HTTPClient, "async http": AsyncHTTPClient, "grpc": GrpcClient, "async grpc": AsyncGrpcClient}


@attrs.frozen
class Caller:
    """One of the four clients, called in one way: `await caller.take("chat", ...)`."""

    client: Any

    async def take(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """What a member answers: a property's value, a method's answer, all items where it streams."""
        if isinstance(self.client, (HTTPClient, GrpcClient)):
            return await asyncio.to_thread(self._now, name, args, kwargs)
        found = getattr(self.client, name)
        found = found(*args, **kwargs) if inspect.ismethod(found) else found
        found = await found if inspect.isawaitable(found) else found
        return [item async for item in found] if hasattr(found, "__aiter__") else found

    def _now(self, name: str, args: Any, kwargs: Any) -> Any:
        found = getattr(self.client, name)
        found = found(*args, **kwargs) if inspect.ismethod(found) else found
        return list(found) if hasattr(found, "__next__") else found

    async def aclose(self) -> None:
        """Close the client."""
        await self.take("aclose" if hasattr(self.client, "aclose") else "close")


@asynccontextmanager
async def four(*, key: str | None = None, **how: Any) -> AsyncIterator[tuple[Any, dict[str, Caller]]]:
    """One server with both ports, and each of the four clients at its own."""
    async with calling(**how) as called, listening(called.served) as http_port:
        made: dict[str, Caller] = {}
        for name, cls in KINDS.items():
            port = called.port if "grpc" in name else http_port
            made[name] = Caller(cls(f"127.0.0.1:{port}", timeout=20, api_key=key, max_retries=0))
        try:
            yield called.served, made
        finally:
            for caller in made.values():
                await caller.aclose()


def without(value: Any, *keys: str) -> Any:
    """Plain data without what differs between any two answers."""
    if isinstance(value, list):
        return [without(item, *keys) for item in value]
    if attrs.has(type(value)):
        return attrs.asdict(value, filter=lambda attribute, _: attribute.name not in keys)
    return value


ASKED: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("generate", ("Hi", {"max_new_tokens": 50}), {}),
    ("generate", ("Hi", {"generation_config": {"max_new_tokens": 4}}), {"detail": True, "logprobs": 2, "n": 2}),
    ("query", ("Hi",), {"max_new_tokens": 50}),
    ("query", ("Hi", "raw"), {"max_new_tokens": 3, "stop": "ü"}),
    ("predict", ("Hi", "attrs"), {"max_new_tokens": 3, "seed": 7}),
    ("generate_stream", ("Hi", {"max_new_tokens": 50}), {"echo": True}),
    ("chat", ("Hi",), {}),
    ("chat", ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],), {"max_tokens": 3}),
    ("chat", ("Hi",), {"model": "echo", "logprobs": True, "top_logprobs": 2, "max_tokens": 3}),
    ("chat", ("Hi",), {"stream": True}),
    ("chat", ("Hi",), {"stream": True, "stream_options": {"include_usage": True}, "n": 2, "max_tokens": 2}),
    ("embed", (["first", "second"],), {}),
    ("models", (), {}),
    ("metadata", (), {}),
    ("model_name", (), {}),
    ("configuration", (), {}),
    ("config", (), {}),
    ("supports_embeddings", (), {}),
    ("livez", (), {}),
    ("health", (), {}),
    ("wait_until_ready", (5,), {}),
]


async def test_all_four_get_the_same_answers() -> None:
    """Every kind of call, asked of one server by each client: equal values of the same types."""
    async with four(reply=REPLY, embed=4) as (_, clients):
        for name, args, kwargs in ASKED:
            expected = without(await clients["http"].take(name, *args, **kwargs), "id", "created")
            for kind, caller in clients.items():
                answer = without(await caller.take(name, *args, **kwargs), "id", "created")
                if name == "chat" and kwargs.get("stream"):  # pieces may be joined on the way
                    answer, expected_text = text_of(answer), text_of(expected)
                    assert answer == expected_text, (kind, name, kwargs)
                elif name == "generate_stream":
                    assert "".join(f["text"] for f in answer) == "".join(f["text"] for f in expected), kind
                    assert answer[-1]["usage"] == expected[-1]["usage"] and answer[-1]["finish_reason"] == "stop"
                elif name == "embed":
                    assert answer["num_tokens"] == expected["num_tokens"]
                    for mine, theirs in zip(answer["embeddings"], expected["embeddings"], strict=True):
                        assert mine == pytest.approx(theirs, abs=1e-6)
                elif kwargs.get("detail"):
                    assert strip_logprobs(answer) == strip_logprobs(expected), (kind, name)
                else:
                    assert answer == expected, (kind, name, kwargs)


def text_of(chunks: list[dict[str, Any]]) -> tuple[dict[int, str], Any]:
    """What a streamed chat says: the text of each choice, and the usage."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + (choice["delta"]["content"] or "")
    return texts, chunks[-1]["usage"]


def strip_logprobs(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer whose logarithms are rounded."""
    rows = [[(e["token"], e["token_id"], round(e["logprob"], 5)) for e in row] for row in answer["logprobs"]]
    return answer | {"logprobs": rows}


REFUSED: list[tuple[str, tuple[Any, ...], dict[str, Any], type[OpenLLMError]]] = [
    ("generate", ("Hi", {"num_beams": 4}), {}, BadRequest),
    ("generate", ("Hi",), {"temperature": 7.0}, BadRequest),
    ("generate", ("Hi", {"no_such_field": 1}), {}, BadRequest),
    ("generate", ("Hi",), {"adapter_name": "none"}, NotFound),
    ("chat", ("Hi",), {"model": "other"}, NotFound),
    ("chat", ("Hi",), {"model": "other", "stream": True}, NotFound),
    ("generate_stream", ("Hi", {"temperature": 7.0}), {}, BadRequest),
    ("adapters", (), {}, BadRequest),
]


async def test_all_four_get_the_same_errors() -> None:
    """A refusal has the same class, code, field and status whichever way it came."""
    async with four(reply=REPLY) as (_, clients):
        for name, args, kwargs, kind in REFUSED:
            told: list[tuple[Any, ...]] = []
            for caller in clients.values():
                with pytest.raises(kind) as refused:
                    await caller.take(name, *args, **kwargs)
                error: Any = refused.value
                told.append((type(error), error.wire_code, error.status))
                assert error.request_id and "\n" not in str(error)
            assert len(set(told)) == 1, (name, args, told)


async def test_a_key_is_asked_for_and_taken() -> None:
    """Without the key Unauthorized with the hint, with it an answer."""
    async with four(reply=REPLY, options={"api_key": ("k",)}) as (_, clients):
        for caller in clients.values():
            with pytest.raises(Unauthorized) as refused:
                await caller.take("metadata")
            assert refused.value.hint and "OPENLLM_API_KEY" in refused.value.hint
    async with four(reply=REPLY, options={"api_key": ("k",)}, key="k") as (_, clients):
        for caller in clients.values():
            assert (await caller.take("metadata")).model_id == "echo"


async def test_leaving_a_stream_aborts_it() -> None:
    """Closing a stream of either gRPC client early frees the slot at the server."""
    async with four(reply="a" * 4000, step_s=0.02) as (served, clients):
        stream = clients["async grpc"].client.generate_stream("Hi", {"max_new_tokens": 3000})
        async for _ in stream:
            break
        await stream.aclose()
        await idle(served)

        def leave() -> None:
            with clients["grpc"].client.generate_stream("Hi", {"max_new_tokens": 3000}) as running:
                next(running)

        await asyncio.to_thread(leave)
        await idle(served)


async def test_cancelling_and_deadlines_reach_the_engine() -> None:
    """A cancelled call, and one past its time-out, end in the engine too; the time-out is TimedOut."""
    async with four(reply="a" * 4000, step_s=0.02) as (served, clients):
        task = asyncio.create_task(clients["async grpc"].take("generate", "Hi", {"max_new_tokens": 3000}))
        async with asyncio.timeout(5):
            while not served.composed.engine.num_running:
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await idle(served)
        impatient = GrpcClient(clients["grpc"].client.address, timeout=0.3)
        try:
            with pytest.raises(TimedOut):
                await asyncio.to_thread(impatient.generate, "Hi", {"max_new_tokens": 3000})
        finally:
            impatient.close()
        await idle(served)


async def idle(served: Any) -> None:
    """Wait until nothing runs."""
    async with asyncio.timeout(5):
        while served.composed.engine.num_running:
            await asyncio.sleep(0.01)


async def test_a_stream_that_fails_is_an_error() -> None:
    """A failure in the middle of an answer is a typed error after the pieces before it."""
    async with four(reply="abcdef", fail_at=3) as (_, clients):
        stream = clients["async grpc"].client.generate_stream("x")
        text = ""
        with pytest.raises(ClientError) as failed:
            async for frame in stream:
                text += frame.text
        assert text == "ab" and "broke off" in str(failed.value) and stream.request_id


async def test_an_overloaded_server_is_told_apart() -> None:
    """A full queue is RateLimited with the seconds to wait, and of trying again."""
    async with (
        calling(reply="a" * 4000, step_s=0.05, max_num_seqs=1, options={"max_queue": 1}) as called,
        AsyncGrpcClient(f"127.0.0.1:{called.port}", max_retries=0) as client,
    ):
        running = [asyncio.create_task(client.generate("Hi", {"max_new_tokens": 3000})) for _ in range(2)]
        engine = called.served.composed.engine
        async with asyncio.timeout(5):
            while engine.queue_depth + engine.num_running < 2:
                await asyncio.sleep(0.01)
        with pytest.raises(RateLimited) as refused:
            await client.generate("Hi")
        assert refused.value.retry_after_s is not None and refused.value.retry_after_s >= 1
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def test_a_closed_client_says_so() -> None:
    """None of the four opens a connection behind the back of who closed it, or lets an error of its library through."""
    async with four(reply="x") as (_, clients):
        for caller in clients.values():
            assert (await caller.take("query", "x")) == "x"
            await caller.aclose()
            await caller.aclose()
            for name, given in (("query", ("x",)), ("generate_stream", ("x",)), ("health", ()), ("model_id", ())):
                with pytest.raises(ClientError, match="has been closed") as refused:
                    await caller.take(name, *given)
                assert refused.value.wire_code == "client_closed"


@asynccontextmanager
async def silent() -> AsyncIterator[int]:
    """A port where connections are taken and nothing is ever said."""
    server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_servers_that_are_none() -> None:
    """No server, an HTTP port, TLS where there is none, and silence: each a typed error of one line, in time."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    async with four(reply="x") as (_, clients), silent() as mute:
        http = clients["http"].client.address.rpartition(":")[2]
        plain = clients["grpc"].client.address.rpartition(":")[2]
        for address, kinds in (
            (f"127.0.0.1:{closed}", (ConnectionFailed,)),
            (f"127.0.0.1:{http}", (ConnectionFailed, TimedOut)),
            (f"https://127.0.0.1:{plain}", (ConnectionFailed, TimedOut)),
            (f"127.0.0.1:{mute}", (ConnectionFailed, TimedOut)),
        ):
            for cls in (GrpcClient, AsyncGrpcClient):
                caller = Caller(cls(address, timeout=1, max_retries=0))
                began = asyncio.get_running_loop().time()
                for name in ("metadata", "generate", "generate_stream"):
                    with pytest.raises(kinds) as failed:
                        await caller.take(name, *(() if name == "metadata" else ("x",)))
                    assert "\n" not in str(failed.value)
                await caller.aclose()
                assert asyncio.get_running_loop().time() - began < 6


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"address": "localhost"}, "address"),
        ({"address": "http://localhost:1/prefix"}, "address"),
        ({"address": "ftp://localhost:1"}, "address"),
        ({"address": "https://localhost:1", "verify": False}, "verify"),
        ({"address": "https://localhost:1", "verify": "/no/such/file"}, "verify"),
        ({"address": "https://localhost:1", "cert": "/no/such/file"}, "cert"),
        ({"address": "localhost:1", "timeout": 0}, "timeout"),
    ],
)
@pytest.mark.parametrize("cls", [GrpcClient, AsyncGrpcClient])
def test_arguments_that_cannot_be(cls: Any, given: dict[str, Any], param: str) -> None:
    """What gRPC cannot do with an argument is said when the client is made, by the argument's name."""
    with pytest.raises(InvalidSetting) as refused:
        cls(**given)
    assert refused.value.param == param


def test_values_that_no_field_holds() -> None:
    """A value of the wrong type is refused by name before anything is sent; OpenAI's client is named as HTTP's."""
    with GrpcClient("127.0.0.1:1") as client:
        for sampling, text in (
            ({"top_k": "many"}, "top_k must be a whole number, not 'many'."),
            ({"n": True}, "n must be"),
            ({"stop": [1]}, "each item of stop must be a string, not [1]."),
            ({"logit_bias": {"x": 1}}, "logit_bias"),
        ):
            with pytest.raises(InvalidRequest) as refused:
                client.generate("x", sampling)
            assert refused.value.param == next(iter(sampling)) and refused.value.message.startswith(text)
        with pytest.raises(InvalidRequest, match="prompt must be a string, not None"):
            client.generate(None)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest):
            client.embed([1])  # type: ignore[list-item]
        with pytest.raises(InvalidRequest):
            client.chat([{"role": "user", "content": "x", "colour": "red"}], model="m")
        with pytest.raises(UnsupportedFeature):
            client.chat([{"role": "user", "content": [{"type": "image_url"}]}], model="m")
        with pytest.raises(UnsupportedFeature):
            _ = client.openai


async def test_a_stream_cut_off_is_no_answer() -> None:
    """When the server goes away in the middle, the stream is StreamInterrupted, not an end."""
    async with (
        calling(reply="a" * 4000, step_s=0.02) as called,
        AsyncGrpcClient(f"127.0.0.1:{called.port}", max_retries=0) as client,
    ):
        stream = client.generate_stream("Hi", {"max_new_tokens": 3000})
        with pytest.raises((StreamInterrupted, ClientError)) as cut:
            async for _ in stream:
                assert called.served.composed.rpc is not None
                await called.served.composed.rpc.aclose(0)
        assert "stream" in str(cut.value) or "broke off" in str(cut.value)
