"""What both clients send, what they make of answers, and how refusals look to the caller."""

from __future__ import annotations

import logging
import time

import httpx
import orjson
import pytest

from openllm_client import EmbeddingsOutput, GenerationOutput, _base
from openllm_core.errors import (
    BadRequest,
    ClientError,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServerError,
    StatusError,
    TimedOut,
    Unauthorized,
)
from openllm_core.schema import ChatCompletion, ChatCompletionChunk, ChatMessage, Usage

from .conftest import STREAM, event, refusal, stream_of

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
GENERATED = {"responses": ["Paris", "Lyon"], "configuration": {"generation_config": {"temperature": 0.5}}}
CHAT = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 5,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
MODELS = {"object": "list", "data": [{"id": "m", "created": 5, "object": "model", "owned_by": "openllm"}]}
METADATA = {
    "model_id": "org/m",
    "timeout": 600,
    "model_name": "llama",
    "backend": "pt",
    "configuration": '{"generation_config":{"temperature":0.25},"use_llama2_prompt":true}',
    "supports_embeddings": True,
    "supports_hf_agent": False,
    "family": "smollm",
    "a_newer_key": [1],
}


class Server:
    """Answers from a table of `METHOD path`, remembering what was asked."""

    def __init__(self, **routes):
        self.routes = routes
        self.seen = []

    def __call__(self, request):
        self.seen.append(request)
        answer = self.routes[f"{request.method} {request.url.path}"]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json=answer)

    def body(self, number=-1):
        return orjson.loads(self.seen[number].content)


def server(routes):
    return Server(**routes)


# -- generate ---------------------------------------------------------------------------------------------------------


def test_generate_sends_prompt_and_configuration(twin):
    """The body is what the route takes: prompt and one flat configuration, keyword arguments over `llm_config`."""
    site = server({"POST /v1/generate": GENERATED})
    twin.client(site, api_key="k", headers={"x-team": "a"})
    found = twin.generate("Hi ü", {"temperature": 1, "n": 2, "top_k": None}, temperature=0.5, stop=["\n"], seed=None)
    assert site.body() == {"prompt": "Hi ü", "llm_config": {"temperature": 0.5, "n": 2, "stop": ["\n"]}}
    request = site.seen[0]
    assert request.headers["authorization"] == "Bearer k"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-team"] == "a"
    assert isinstance(found, GenerationOutput)
    assert found.responses == ["Paris", "Lyon"]
    assert found.text == "Paris"
    assert found.configuration == GENERATED["configuration"]
    assert found.usage is None


def test_generate_with_details(twin):
    """`detail` asks for finish reasons, usage and logprobs and gives them typed."""
    details = {"finish_reasons": ["stop", "length"], "usage": USAGE, "logprobs": None}
    site = server({"POST /v1/generate": GENERATED | {"details": details}})
    found = twin.client(site).generate("x", adapter_name="a", detail=True)
    assert site.body() == {"prompt": "x", "llm_config": {}, "adapter_name": "a", "detail": True}
    assert found.finish_reasons == ["stop", "length"]
    assert found.usage == Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("a", "a"),
        ({"text": "a", "finish_reason": "stop"}, "a"),
        ([{"generated_text": "a"}], "a"),
        (["a", [["q", "a"]]], "a"),
        ({"other": 1}, '{"other":1}'),
        ([], "[]"),
    ],
)
def test_text_of_every_familys_response(twin, response, text):
    """Families answer with text, objects or pairs; the text is found in each."""
    twin.client(server({"POST /v1/generate": {"responses": [response], "configuration": {}}}))
    assert twin.query("x") == text


def test_query_returns_three_forms(twin):
    """Text, plain data, or the typed answer; `predict` is the same call."""
    site = server({"POST /v1/generate": GENERATED})
    twin.client(site)
    assert twin.query("x", max_new_tokens=3) == "Paris"
    assert site.body()["llm_config"] == {"max_new_tokens": 3}
    assert twin.predict("x", return_response="raw") == GENERATED
    assert twin.query("x", return_response="attrs").texts == ["Paris", "Lyon"]
    before = len(site.seen)
    with pytest.raises(InvalidRequest, match="return_response"):
        twin.query("x", return_response="text")
    assert len(site.seen) == before


@pytest.mark.parametrize(
    ("sampling", "param"),
    [
        ({"temperature": float("nan")}, "llm_config.temperature"),
        ({"logit_bias": {5: float("inf")}}, "llm_config.logit_bias.5"),
        ({"stop_token_ids": [1, float("-inf")]}, "llm_config.stop_token_ids[1]"),
    ],
)
def test_numbers_json_cannot_write_are_refused_unsent(twin, sampling, param):
    """NaN would be written as null, which asks for something else."""
    twin.client(server({}))
    with pytest.raises(InvalidRequest) as raised:
        twin.generate("x", **sampling)
    assert raised.value.param == param


@pytest.mark.parametrize("bad", [{"stop": {1}}, {"x": object()}, {"seed": 2**70}, {"stop": "\ud800"}])
def test_values_json_cannot_write_are_refused_unsent(twin, bad):
    """What cannot be written is named before anything is sent."""
    twin.client(server({}))
    with pytest.raises(InvalidRequest, match="JSON"):
        twin.generate("x", **bad)


def test_integer_keys_are_written(twin):
    """`logit_bias` may be keyed by token ids as numbers."""
    site = server({"POST /v1/generate": GENERATED})
    twin.client(site).generate("x", logit_bias={5: 1.5})
    assert site.body()["llm_config"]["logit_bias"] == {"5": 1.5}


def test_generate_stream_sends_the_same_body(twin):
    """Streaming differs from one-shot in the route and in `echo` alone."""
    site = server({"POST /v1/generate_stream": stream_of(STREAM)})
    twin.client(site)
    frames = twin.take(twin.it.generate_stream("x", {"n": 1}, adapter_name="a", echo=True, seed=4))
    assert site.body() == {"prompt": "x", "llm_config": {"n": 1, "seed": 4}, "adapter_name": "a", "echo": True}
    assert site.seen[0].headers["accept"] == "text/event-stream"
    assert "".join(frame.text for frame in frames) == "Grüße 😀"
    assert frames[-1].usage.completion_tokens == 4


# -- chat -------------------------------------------------------------------------------------------------------------


def test_chat_with_a_plain_question(twin):
    """One string is the user's message; the answer is typed."""
    site = server({"POST /v1/chat/completions": CHAT})
    found = twin.client(site).chat("Hi", model="m", temperature=0, max_new_tokens=7, seed=None)
    assert site.body() == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "max_tokens": 7,
    }
    assert isinstance(found, ChatCompletion)
    assert found.text == "hello"
    assert found.usage.total_tokens == 3


def test_chat_takes_mappings_and_messages(twin):
    """Messages may be dicts or `ChatMessage`."""
    site = server({"POST /v1/chat/completions": CHAT})
    twin.client(site).chat([{"role": "system", "content": "s"}, ChatMessage(role="user", content="u")], model="m")
    assert site.body()["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]


def test_chat_asks_once_for_the_model(twin):
    """Without `model` the server's first is used; it is asked for once, and again after a 404."""
    site = server({"GET /v1/models": MODELS, "POST /v1/chat/completions": [CHAT, CHAT, refusal(404), CHAT]})
    twin.client(site)
    twin.chat("a")
    twin.chat("b")
    with pytest.raises(NotFound):
        twin.chat("c")
    twin.chat("d")
    asked = [request.url.path for request in site.seen].count("/v1/models")
    assert asked == 2
    assert site.body()["model"] == "m"


def test_chat_without_any_model(twin):
    """A server that lists nothing is reported as such."""
    twin.client(server({"GET /v1/models": {"object": "list", "data": []}}))
    with pytest.raises(ClientError, match="lists no model"):
        twin.chat("a")


def chunk_of(delta, **more):
    choice = {"index": 0, "delta": delta, "finish_reason": None} | more
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def test_chat_streams_chunks(twin):
    """`stream=True` gives typed chunks, the usage chunk without choices included."""
    usage = chunk_of({}) | {"choices": [], "usage": USAGE}
    events = [
        chunk_of({"role": "assistant", "content": ""}),
        chunk_of({"content": "he"}),
        chunk_of({"content": "llo"}, logprobs=None) | {"system_fingerprint": None, "usage": None},
        chunk_of({}, finish_reason="stop"),
        usage,
    ]
    site = server({"POST /v1/chat/completions": stream_of(b"".join(map(event, events)) + event(b"[DONE]"))})
    chunks = twin.take(twin.client(site).chat("Hi", model="m", stream=True))
    assert site.body()["stream"] is True
    assert all(isinstance(chunk, ChatCompletionChunk) for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == "hello"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[3].choices[0].finish_reason == "stop"
    assert chunks[4].usage.total_tokens == 3


@pytest.mark.parametrize(
    "bad",
    [
        chunk_of({"content": 5}),
        chunk_of({"content": "x"}) | {"id": 5},
        chunk_of({"content": "x"}) | {"created": "1"},
        chunk_of({"content": "x"}) | {"object": "chat.completion"},
        chunk_of({"content": "x"}, index="0"),
        chunk_of({"content": "x"}) | {"choices": None},
        chunk_of({"content": "x"}) | {"choices": [None]},
    ],
)
def test_chunk_of_a_wrong_shape_is_an_error(twin, bad):
    """A chunk is read strictly on the short way too."""
    twin.client(server({"POST /v1/chat/completions": stream_of(event(bad) + event(b"[DONE]"))}))
    with pytest.raises(ClientError) as raised:
        twin.take(twin.chat("x", model="m", stream=True))
    assert raised.value.wire_code == "malformed_response"


def test_refused_chat_stream_fails_at_the_call(twin):
    """`chat(stream=True)` has begun when it returns: a refusal is raised by the call itself."""
    twin.client(server({"POST /v1/chat/completions": refusal(400)}))
    with pytest.raises(BadRequest):
        twin.chat("x", model="m", stream=True)


# -- the other routes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_embed(twin, wrapped):
    """One text or several; the list of one that 0.3.5 answered with is read too."""
    answer = {"embeddings": [[0.5, 1]], "num_tokens": 3}
    site = server({"POST /v1/embeddings": [answer] if not wrapped else httpx.Response(200, json=[answer])})
    found = twin.client(site).embed("a")
    assert site.body() == ["a"]
    assert found == EmbeddingsOutput(embeddings=[[0.5, 1.0]], num_tokens=3)
    twin.embed(("a", "b"))
    assert site.body() == ["a", "b"]


def test_embed_where_there_is_no_such_route(twin):
    """A server without embeddings answers 404, which is a NotFound."""
    twin.client(server({"POST /v1/embeddings": refusal(404, "unknown_url")}))
    with pytest.raises(NotFound):
        twin.embed("a")


def test_metadata_and_its_properties(twin):
    """Each property asks the server; unknown keys are passed over."""
    site = server({"GET /v1/metadata": METADATA})
    twin.client(site)
    assert twin.metadata().family == "smollm"
    assert (twin.model_name, twin.model_id, twin.backend, twin.timeout) == ("llama", "org/m", "pt", 600)
    assert (twin.supports_embeddings, twin.supports_hf_agent) == (True, False)
    assert twin.configuration == {"generation_config": {"temperature": 0.25}, "use_llama2_prompt": True}
    assert len(site.seen) == 8


def test_config_is_the_familys_object(twin, monkeypatch):
    """`config` is typed, holds the server's values, and ignores this machine's environment."""
    monkeypatch.setenv("OPENLLM_LLAMA_GENERATION_TEMPERATURE", "0.9")
    monkeypatch.setenv("OPENLLM_SMOLLM_GENERATION_TEMPERATURE", "0.9")
    twin.client(server({"GET /v1/metadata": METADATA}))
    found = twin.config
    assert found["temperature"] == 0.25
    assert found["use_llama2_prompt"] is True
    assert found.family.name == "smollm"


@pytest.mark.parametrize(
    "change", [{"family": "no-such"}, {"configuration": '{"generation_config": {"temperature": "hot"}}'}]
)
def test_config_that_this_version_cannot_read(twin, change):
    """A family or value unknown here is a typed error."""
    twin.client(server({"GET /v1/metadata": METADATA | change}))
    with pytest.raises(ClientError) as raised:
        _ = twin.config
    assert raised.value.wire_code == "malformed_response"


@pytest.mark.parametrize("text", ["", "[]", "nonsense"])
def test_configuration_that_is_no_object(twin, text):
    """`configuration` is JSON text of an object or an error."""
    twin.client(server({"GET /v1/metadata": METADATA | {"configuration": text}}))
    with pytest.raises(ClientError):
        _ = twin.configuration


def test_models(twin):
    """The served names."""
    assert [card.id for card in twin.client(server({"GET /v1/models": MODELS})).models()] == ["m"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, content=b"<html>hi</html>"),
        httpx.Response(200, content=b""),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": 5}),
        httpx.Response(200, json={"data": [{"id": 5, "created": 1}]}),
        httpx.Response(200, json={"data": [{"id": "a", "created": True}]}),
    ],
)
def test_answer_of_another_shape_is_an_error(twin, answer):
    """A 200 that is not the route's answer is reported, not guessed at."""
    twin.client(server({"GET /v1/models": answer}))
    with pytest.raises(ClientError) as raised:
        twin.models()
    assert raised.value.wire_code == "malformed_response"


# -- health -----------------------------------------------------------------------------------------------------------


def test_health_tells_ready_from_not(twin):
    """True when ready; otherwise false with the server's own words and time."""
    site = server(
        {"GET /readyz": [{"status": "ready"}, refusal(503, "engine_loading", "loading 40 %", **{"retry-after": "2"})]}
    )
    twin.client(site)
    assert twin.health()
    found = twin.health()
    assert not found
    assert (found.message, found.retry_after_s, found.status) == ("loading 40 %", 2.0, 503)
    assert len(site.seen) == 2


def test_health_of_something_else(twin):
    """A 404, or nobody there, is an error and not merely "not ready"."""
    with pytest.raises(NotFound):
        twin.client(server({"GET /readyz": refusal(404)})).health()
    with pytest.raises(ConnectionFailed):
        twin.client(server({"GET /readyz": httpx.ConnectError("refused")})).health()


def test_livez(twin):
    """True while the process answers, even as its engine loads."""
    assert twin.client(server({"GET /livez": {"status": "alive"}})).livez() is True
    with pytest.raises(ServerError):
        twin.client(server({"GET /livez": refusal(500)})).livez()


def test_wait_until_ready_polls_through_the_start(twin, monkeypatch):
    """Nobody listening, a gateway's 502 and loading are waited through."""
    monkeypatch.setattr(_base, "POLL_S", 0.02)
    loading = refusal(503, "engine_loading", "loading", **{"retry-after": "0"})
    site = server({"GET /readyz": [httpx.ConnectError("refused"), refusal(502), loading, loading, {"status": "ready"}]})
    twin.client(site)
    twin.wait_until_ready(30)
    assert len(site.seen) == 5


def test_wait_until_ready_honours_retry_after(twin):
    """It does not come back sooner than asked."""
    site = server({"GET /readyz": [refusal(503, "engine_loading", "l", **{"retry-after": "0.4"}), {"status": "ready"}]})
    twin.client(site)
    begun = time.monotonic()
    twin.wait_until_ready(30)
    assert time.monotonic() - begun >= 0.4


def test_wait_until_ready_gives_up_with_the_last_word(twin):
    """The error says what the server was doing; the wait ends on time, whatever Retry-After says."""
    twin.client(
        server({"GET /readyz": refusal(503, "engine_loading", "loading weights 40 %", **{"retry-after": "60"})})
    )
    begun = time.monotonic()
    with pytest.raises(TimedOut, match=r"not ready within 0\.3 s.*loading weights 40 %"):
        twin.wait_until_ready(0.3)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(404), NotFound),
        (refusal(401), Unauthorized),
        (refusal(503, "engine_unavailable", "gave up", **{"x-should-retry": "false"}), ServerError),
    ],
)
def test_wait_until_ready_stops_where_waiting_cannot_help(twin, answer, error):
    """A wrong server, a missing key or an engine that failed for good ends it at once."""
    site = server({"GET /readyz": answer})
    with pytest.raises(error):
        twin.client(site).wait_until_ready(30)
    assert len(site.seen) == 1


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "integer_below_min_value", BadRequest),
        (401, "invalid_api_key", Unauthorized),
        (403, "forbidden_host", Unauthorized),
        (404, "model_not_found", NotFound),
        (405, "method_not_allowed", BadRequest),
        (408, "request_timeout", BadRequest),
        (413, "content_too_large", BadRequest),
        (415, "unsupported_media_type", BadRequest),
        (422, "x", BadRequest),
        (431, "headers_too_large", BadRequest),
        (429, "rate_limit_exceeded", RateLimited),
        (500, "internal_error", ServerError),
        (502, None, ServerError),
        (503, "server_is_overloaded", RateLimited),
        (503, "engine_unavailable", ServerError),
        (504, "deadline_exceeded", ServerError),
        (418, None, StatusError),
    ],
)
def test_status_becomes_a_typed_error(twin, status, code, error):
    """Each refusal has its class, status, code, field, request id and time."""
    body = {"error": {"message": "because", "type": "t", "param": "messages[0].role", "code": code}}
    headers = {"x-request-id": "r-7", "retry-after": "9"}
    twin.client(lambda request: httpx.Response(status, json=body, headers=headers), max_retries=0)
    with pytest.raises(StatusError) as raised:
        twin.generate("x")
    found = raised.value
    assert type(found) is error
    assert (found.status, found.param, found.request_id, found.retry_after_s) == (status, "messages[0].role", "r-7", 9)
    assert found.wire_code == (code or error.code)
    assert "because" in found.message


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b"<html>\n<b>Bad Gateway</b></html>", "<html> <b>Bad Gateway</b></html>"),
        (b'"BentoService error"', "BentoService error"),
        (b'{"detail": "Not here"}', "Not here"),
        (b'{"message": "plain"}', "plain"),
        (b'{"error": "plain"}', "plain"),
        (b'{"error": null}', "without a reason"),
        (b"", "without a reason"),
        (b"[]", "without a reason"),
        (b"\xff\xfe", "\ufffd"),
        (b'{"error": {"message": "a\\u001b[2J\\r\\nb"}}', "a [2J b"),
    ],
)
def test_refusals_in_other_shapes_are_shown(twin, content, shown):
    """Proxies and older servers answer in their own ways; the reason is shown, made harmless."""
    twin.client(lambda request: httpx.Response(500, content=content), max_retries=0)
    with pytest.raises(ServerError) as raised:
        twin.generate("x")
    assert shown in raised.value.message
    assert raised.value.message.isprintable()


def test_long_reason_is_cut(twin):
    """A megabyte of reason does not become a megabyte of message."""
    twin.client(lambda request: httpx.Response(500, content=b"x" * 1_000_000), max_retries=0)
    with pytest.raises(ServerError) as raised:
        twin.generate("x")
    assert len(raised.value.message) < 700


def test_redirects_are_named_not_followed(twin):
    """A redirect is an error that says where to."""
    answer = httpx.Response(308, headers={"location": "https://other.invalid/v1"})
    twin.client(lambda request: answer)
    with pytest.raises(StatusError, match=r"redirects to https://other\.invalid/v1"):
        twin.models()


def test_hints_say_what_to_do(twin):
    """A missing key and a wrong address say so."""
    with pytest.raises(Unauthorized) as raised:
        twin.client(lambda request: refusal(401, "invalid_api_key")).models()
    assert "OPENLLM_API_KEY" in raised.value.hint
    with pytest.raises(ConnectionFailed) as failed:
        twin.client(server({"GET /livez": httpx.ConnectError("refused")})).livez()
    assert "openllm start" in failed.value.hint


def test_ignored_parameters_are_logged(twin, caplog):
    """What the server passed over is not passed over in silence."""
    answer = httpx.Response(200, json=CHAT, headers={"x-openllm-ignored": "foo, bar"})
    with caplog.at_level(logging.WARNING, logger="openllm_client"):
        twin.client(lambda request: answer).chat("x", model="m", foo=1)
    assert "foo, bar" in caplog.text


# -- trying again -----------------------------------------------------------------------------------------------------

SOON = {"retry-after": "0"}


@pytest.mark.parametrize("status", [429, 503])
def test_refused_work_is_sent_again(twin, status):
    """A refusal that passes is not seen by the caller."""
    site = server({"POST /v1/generate": [refusal(status, **SOON), refusal(status, **SOON), GENERATED]})
    assert twin.client(site).generate("x").text == "Paris"
    assert len(site.seen) == 3


def test_refused_stream_is_sent_again(twin):
    """A stream that has not begun may begin anew."""
    site = server({"POST /v1/generate_stream": [refusal(503, **SOON), stream_of(STREAM)]})
    assert len(twin.take(twin.client(site).it.generate_stream("x"))) == 3
    assert len(site.seen) == 2


def test_begun_stream_is_never_sent_again(twin):
    """A stream that broke after it began is an error: its beginning was already given out."""
    site = server({"POST /v1/generate_stream": [stream_of(STREAM[:80]), stream_of(STREAM)]})
    with pytest.raises(ClientError):
        twin.take(twin.client(site).it.generate_stream("x"))
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    "answer", [refusal(502), refusal(504), refusal(500), httpx.ReadError("gone"), httpx.RemoteProtocolError("gone")]
)
def test_work_that_may_have_run_is_not_sent_again(twin, answer):
    """Generation is not doubled behind the caller's back."""
    site = server({"POST /v1/generate": answer})
    with pytest.raises(ClientError):
        twin.client(site).generate("x")
    assert len(site.seen) == 1


def test_reading_is_sent_again_after_a_broken_connection(twin):
    """A question about the server may be asked twice."""
    site = server({"GET /v1/models": [httpx.ReadError("gone"), refusal(502, **SOON), MODELS]})
    assert len(twin.client(site).models()) == 1


def test_retries_end(twin):
    """After max_retries the refusal is the answer; max_retries=0 tries once."""
    site = server({"POST /v1/generate": refusal(503, **SOON)})
    with pytest.raises(ServerError):
        twin.client(site, max_retries=3).generate("x")
    assert len(site.seen) == 4
    with pytest.raises(ServerError):
        twin.client(site, max_retries=0).generate("x")
    assert len(site.seen) == 5


def test_no_wait_past_the_time_out(twin):
    """A server that asks for more time than the caller has is not waited for."""
    site = server({"POST /v1/generate": refusal(503, "server_is_overloaded", **{"retry-after": "30"})})
    begun = time.monotonic()
    with pytest.raises(RateLimited) as raised:
        twin.client(site, timeout=5).generate("x")
    assert time.monotonic() - begun < 3
    assert raised.value.retry_after_s == 30
    assert len(site.seen) == 1
