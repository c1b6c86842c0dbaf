"""Bad input: the status, the code and the field of every refusal, in one shape, with nothing else disturbed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.openllm.server.serving import Served, chat_body, serving

from openllm.server.errors import TABLE, body_of, headers_of, response_of, status_of
from openllm_core.errors import (
    CorruptModel,
    EngineLoading,
    EngineUnavailable,
    InvalidRequest,
    Overloaded,
    RequestAborted,
    ShuttingDown,
    UnknownServedModel,
)
from openllm_core.schema import ErrorBody
from openllm_core.serde import structure

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, TEXT, GENERATE, STREAM = "/v1/chat/completions", "/v1/completions", "/v1/generate", "/v1/generate_stream"
JSON = {"content-type": "application/json"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncIterator[Served]:
    """One app for the module, with a small context and a small body limit."""
    async with serving(options={"max_body": 64 * 1024}, reply="ok", max_model_len=256) as started:
        yield started


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}


def chat(**more: Any) -> tuple[str, Any]:
    """A chat request with some fields."""
    return CHAT, chat_body(**more)


def text(**more: Any) -> tuple[str, Any]:
    """A completion request with some fields."""
    return TEXT, {"model": "echo", "prompt": "p"} | more


def gen(prompt: Any = "p", **config: Any) -> tuple[str, Any]:
    """A generate request with some fields of llm_config."""
    return GENERATE, {"prompt": prompt, "llm_config": config}


def said(*messages: Any) -> tuple[str, Any]:
    """A chat request with these messages."""
    return CHAT, {"model": "echo", "messages": list(messages)}


LOW, HIGH = "below_min_value", "above_max_value"
BAD: list[tuple[tuple[str, Any], int, str, str | None]] = [
    # wrong types
    ((CHAT, []), 400, "invalid_type", None),
    ((CHAT, None), 400, "invalid_type", None),
    ((CHAT, {}), 400, "missing_required_parameter", "model"),
    ((CHAT, {"model": "echo"}), 400, "missing_required_parameter", "messages"),
    ((CHAT, {"model": 1, "messages": []}), 400, "invalid_type", "model"),
    (chat(temperature="1"), 400, "invalid_type", "temperature"),
    (chat(temperature=True), 400, "invalid_type", "temperature"),
    (chat(max_tokens=1.5), 400, "invalid_type", "max_tokens"),
    (chat(max_tokens=True), 400, "invalid_type", "max_tokens"),
    (chat(stream="yes"), 400, "invalid_type", "stream"),
    (chat(stop={"a": 1}), 400, "invalid_type", "stop"),
    (text(prompt=None), 400, "invalid_type", "prompt"),
    (text(prompt=[1, "a"]), 400, "invalid_type", "prompt[1]"),
    ((GENERATE, {}), 400, "missing_required_parameter", "prompt"),
    ((GENERATE, {"prompt": ["a"]}), 400, "invalid_type", "prompt"),
    # ranges
    (chat(temperature=-0.1), 400, f"decimal_{LOW}", "temperature"),
    (chat(temperature=2.1), 400, f"decimal_{HIGH}", "temperature"),
    (chat(top_p=0), 400, f"decimal_{LOW}", "top_p"),
    (chat(top_p=1.1), 400, f"decimal_{HIGH}", "top_p"),
    (chat(top_k=-2), 400, f"integer_{LOW}", "top_k"),
    (chat(min_p=1.1), 400, f"decimal_{HIGH}", "min_p"),
    (chat(presence_penalty=2.1), 400, f"decimal_{HIGH}", "presence_penalty"),
    (chat(frequency_penalty=-2.1), 400, f"decimal_{LOW}", "frequency_penalty"),
    (chat(repetition_penalty=0), 400, f"decimal_{LOW}", "repetition_penalty"),
    (chat(seed=2**64), 400, f"integer_{HIGH}", "seed"),
    (chat(n=0), 400, f"integer_{LOW}", "n"),
    (chat(n=17), 400, f"integer_{HIGH}", "n"),
    (chat(max_tokens=0), 400, f"integer_{LOW}", "max_tokens"),
    (chat(max_tokens=-1), 400, f"integer_{LOW}", "max_tokens"),
    (chat(max_tokens=10**9), 400, "context_length_exceeded", "max_tokens"),
    (chat(max_tokens=2**70), 400, f"integer_{HIGH}", "max_tokens"),
    (chat(max_completion_tokens=0), 400, f"integer_{LOW}", "max_completion_tokens"),
    (chat(min_tokens=9, max_tokens=3), 400, f"integer_{HIGH}", "min_tokens"),
    (chat(top_logprobs=21, logprobs=True), 400, f"integer_{HIGH}", "top_logprobs"),
    (chat(top_logprobs=1), 400, "invalid_value", "top_logprobs"),
    (text(logprobs=21), 400, f"integer_{HIGH}", "logprobs"),
    (chat(logit_bias={"1": 101}), 400, f"decimal_{HIGH}", "logit_bias.1"),
    (chat(logit_bias={"x": 1}), 400, "invalid_value", "logit_bias.x"),
    (chat(logit_bias={"260": 1}), 400, "invalid_value", "logit_bias"),
    (chat(stop_token_ids=[260]), 400, "invalid_value", "stop_token_ids"),
    # lengths
    (said(), 400, "empty_array", "messages"),
    (chat(stop=["a", "b", "c", "d", "e"]), 400, "array_above_max_length", "stop"),
    (chat(stop=["a", "é" * 129]), 400, "string_above_max_length", "stop[1]"),
    (chat(stop=""), 400, "string_below_min_length", "stop[0]"),
    (chat(stop_token_ids=[1] * 129), 400, "array_above_max_length", "stop_token_ids"),
    (text(prompt=["p"] * 129), 400, "array_above_max_length", "prompt"),
    (text(prompt=["p"] * 128, n=2), 400, f"integer_{HIGH}", "n"),
    (text(prompt=[]), 400, "empty_array", "prompt"),
    (text(prompt=[[]]), 400, "empty_array", "prompt"),
    (text(prompt=[-1]), 400, "invalid_value", "prompt"),
    (text(prompt=[[5], [999]]), 400, "invalid_value", "prompt[1]"),
    (text(prompt="x" * 300), 400, "context_length_exceeded", "prompt"),
    (text(prompt=["p", "x" * 300]), 400, "context_length_exceeded", "prompt[1]"),
    (chat(content="x" * 300), 400, "context_length_exceeded", "messages"),
    (gen("x" * 300), 400, "context_length_exceeded", "prompt"),
    # names
    (text(model="gpt-9"), 404, "model_not_found", "model"),
    (chat(adapter_name="mine"), 404, "adapter_not_found", "adapter_name"),
    (text(model=""), 400, "string_below_min_length", "model"),
    # messages
    (said({"role": "king", "content": "x"}), 400, "invalid_value", "messages[0].role"),
    (said({"role": "user"}), 400, "missing_required_parameter", "messages[0].content"),
    (said({"role": "user", "content": 5}), 400, "invalid_type", "messages[0].content"),
    (said({"role": "user", "content": [{"type": "text"}]}), 400, "invalid_type", "messages[0].content[0].text"),
    (
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}),
        400,
        "unsupported_value",
        "messages[0].content[0].type",
    ),
    # what we know and cannot do
    (chat(tools=[{"type": "function"}]), 400, "missing_required_parameter", "tools[0].function"),
    (chat(tools=[{"type": "web_search"}]), 400, "invalid_value", "tools[0].type"),
    (chat(tools=[TOOL, TOOL]), 400, "invalid_value", "tools[1].function.name"),
    (chat(tools=[{"type": "function", "function": {"name": "a b"}}]), 400, "invalid_value", "tools[0].function.name"),
    (chat(tool_choice="required"), 400, "invalid_value", "tool_choice"),
    (chat(tool_choice="any", tools=[TOOL]), 400, "invalid_value", "tool_choice"),
    (chat(tool_choice={"type": "function"}, tools=[TOOL]), 400, "invalid_value", "tool_choice"),
    (
        chat(tool_choice={"type": "function", "function": {"name": "nope"}}, tools=[TOOL]),
        400,
        "invalid_value",
        "tool_choice.function.name",
    ),
    (chat(functions=[{"name": "f"}]), 400, "unsupported_parameter", "functions"),
    (chat(guided_regex="a+"), 400, "unsupported_parameter", "guided_regex"),
    (chat(response_format={"type": "xml"}), 400, "invalid_value", "response_format.type"),
    (chat(audio={"voice": "x"}), 400, "unsupported_parameter", "audio"),
    (chat(modalities=["text", "audio"]), 400, "unsupported_parameter", "modalities"),
    (chat(chat_template="{{ 1 }}"), 400, "unsupported_parameter", "chat_template"),
    (chat(store=1), 400, "unsupported_parameter", "store"),
    (text(best_of=3, n=2), 400, "unsupported_parameter", "best_of"),
    (text(suffix="end"), 400, "unsupported_parameter", "suffix"),
    (text(echo=True, logprobs=1), 400, "unsupported_parameter", "logprobs"),
    (chat(stream_options={"include_usage": True}), 400, "invalid_value", "stream_options"),
    # /v1/generate*
    ((GENERATE, {"prompt": "p", "foo": 1}), 400, "unknown_parameter", "foo"),
    (gen(foo=1), 400, "unknown_parameter", "llm_config.foo"),
    (gen(temperature=3), 400, f"decimal_{HIGH}", "llm_config.temperature"),
    (gen(max_new_tokens="5"), 400, "invalid_type", "llm_config.max_new_tokens"),
    (gen(num_beams=4), 400, "unsupported_parameter", "llm_config.num_beams"),
    (gen(stop=["a"] * 5), 400, "array_above_max_length", "llm_config.stop"),
    (gen(n=17), 400, f"integer_{HIGH}", "llm_config.n"),
    (gen(max_new_tokens=10**6), 400, "context_length_exceeded", "llm_config.max_new_tokens"),
    (gen(max_tokens=10**6), 400, "context_length_exceeded", "llm_config.max_tokens"),
    (
        gen(generation_config={"max_new_tokens": 10**6}),
        400,
        "context_length_exceeded",
        "llm_config.generation_config.max_new_tokens",
    ),
    ((STREAM, {"prompt": "p", "llm_config": 5}), 400, "invalid_type", "llm_config"),
]


@pytest.mark.parametrize(
    ("request_", "status", "code", "param"), BAD, ids=[f"{i}-{row[2]}-{row[3]}" for i, row in enumerate(BAD)]
)
async def test_bad_requests(
    served: Served, request_: tuple[str, Any], status: int, code: str, param: str | None
) -> None:
    """Each is refused with the field named, in the one shape, the same with and without `stream`."""
    path, body = request_
    forms = [body]
    if isinstance(body, dict) and path in (CHAT, TEXT) and "stream" not in body and "stream_options" not in body:
        forms.append(body | {"stream": True})
    for form in forms:
        answer = await served.http.post(path, content=json.dumps(form), headers=JSON)
        assert answer.status_code == status, answer.text
        error = structure(answer.json(), ErrorBody).error
        assert (error.code, error.param) == (code, param), error.message
        assert error.type == "invalid_request_error"
        assert len(error.message) <= 1000 and len(answer.headers["x-request-id"]) == 32
    assert served.composed.engine.queue_depth == served.composed.engine.num_running == 0


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"{}{}", "invalid_json"),
        (b'{"model": NaN}', "invalid_json"),
        (
            b'{"temperature": 1e999, "model": "echo", "messages": [{"role": "user", "content": "x"}]}',
            "invalid_json|invalid_value",
        ),
        (b'{"model": "a", "model": "b"}', "invalid_json"),
        (b'\xef\xbb\xbf{"model": "a"}', "invalid_json"),
        (b'{"model": "\xff"}', "invalid_json"),
        (b'{"model": "\\ud800"}', "invalid_json"),
        (b"[" * 65 + b"]" * 65, "json_too_deep"),
        (b"[" * 60000, "json_too_deep"),
    ],
)
async def test_malformed_json(served: Served, body: bytes, code: str) -> None:
    """Bytes that are not one sound JSON value are refused as such on every route that parses JSON."""
    for path in (CHAT, TEXT, GENERATE, STREAM):
        answer = await served.http.post(path, content=body, headers=JSON)
        assert answer.status_code == 400, (path, answer.text)
        assert answer.json()["error"]["code"] in code.split("|")


async def test_too_large_a_body(served: Served) -> None:
    """A body past the limit is 413, announced or not, and the connection is closed."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    for content in (b" " * 65537, endless()):
        answer = await served.http.post(CHAT, content=content, headers=JSON)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "content_too_large"
        assert answer.headers["connection"] == "close"


async def test_content_types(served: Served) -> None:
    """415 where JSON is parsed and something else is sent, or an encoded body; metadata does not care."""
    body = json.dumps(chat_body(max_tokens=1))
    for headers in (
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-python-pickle"},
        JSON | {"content-encoding": "gzip"},
    ):
        for path in (CHAT, GENERATE):
            answer = await served.http.post(path, content=body, headers=headers)
            assert answer.status_code == 415, headers
            assert answer.json()["error"]["code"] == "unsupported_media_type"
    answer = await served.http.post(CHAT, content=body, headers={"content-type": "Application/JSON; charset=utf-8"})
    assert answer.status_code == 200


async def test_neutral_values_are_accepted(served: Served) -> None:
    """Fields we cannot do are accepted where their value asks for nothing."""
    neutral: dict[str, Any] = {
        "tools": [],
        "tool_choice": "none",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "modalities": ["text"],
        "store": False,
        "service_tier": "auto",
        "audio": None,
        "logprobs": False,
        "stop": None,
        "stream_options": None,
        "user": "me",
    }
    answer = await served.post(CHAT, chat_body(**neutral))
    assert answer.status_code == 200, answer.text
    assert "x-openllm-ignored" not in answer.headers
    answer = await served.post(TEXT, {"model": "echo", "prompt": "p", "best_of": 2, "n": 2, "suffix": None})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "path",
    ["/chat/", "/chat/missing.js", "/v1", "/v1/models/", "//v1/models", "/v1/..%2fmodels", "/V1/models", "/v1/chat"],
)
async def test_unknown_routes(served: Served, path: str) -> None:
    """404 in our shape; neither a trailing slash nor case nor dots lead anywhere."""
    answer = await served.http.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"


async def test_wrong_methods(served: Served) -> None:
    """405 in our shape with Allow; HEAD works where GET does."""
    for method, path, allowed in (
        ("GET", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("TRACE", "/livez", "GET, HEAD"),
        ("PUT", "/v1/metadata", "GET, HEAD, POST"),
    ):
        answer = await served.http.request(method, path)
        assert answer.status_code == 405, (method, path)
        assert answer.headers["allow"] == allowed
        assert answer.json()["error"]["code"] == "method_not_allowed"
    head = await served.http.head("/v1/models")
    assert head.status_code == 200 and "access-control-allow-origin" not in head.headers


async def test_a_bad_request_disturbs_nobody(served: Served) -> None:
    """After all of the above the same engine answers as before."""
    answer = await served.post(CHAT, chat_body())
    assert answer.json()["choices"][0]["message"]["content"] == "ok"


# -- the table ----------------------------------------------------------------------------------------------------------


async def test_every_code_of_the_table_has_a_sound_status() -> None:
    """Statuses are error statuses, and 503s say when to come back."""
    for code, (status, kind) in TABLE.items():
        assert 400 <= status < 600 and kind.endswith("_error")
        assert status_of(InvalidRequest("x", code=code)) == (status, kind)


async def test_retry_after_is_whole_seconds_within_bounds() -> None:
    """1 to 60, rounded up; only on 429 and 503."""
    for wait, told in ((None, "1"), (0.1, "1"), (1.2, "2"), (500, "60")):
        for error in (
            Overloaded("x", retry_after_s=wait),
            EngineLoading("x", retry_after_s=wait),
            ShuttingDown("x", retry_after_s=wait),
        ):
            assert headers_of(error, 503)["retry-after"] == told
    assert "retry-after" not in headers_of(InvalidRequest("x"), 400)
    assert headers_of(EngineUnavailable("x"), 503)["x-should-retry"] == "false"
    assert "x-should-retry" not in headers_of(EngineUnavailable("x", retry_after_s=3), 503)


async def test_overload_status_can_be_429() -> None:
    """Where the operator asked for it, overload is a rate limit."""
    assert status_of(Overloaded("x")) == (503, "service_unavailable_error")
    assert status_of(Overloaded("x"), 429) == (429, "rate_limit_error")


async def test_our_own_failures_tell_only_an_id() -> None:
    """A bug, or an error about files, names neither path nor cause to the caller."""
    for error in (ValueError("/secret/path"), CorruptModel("/secret/path is corrupt")):
        body = body_of(error, "abc")
        assert "secret" not in body.error.message and "abc" in body.error.message
        assert body.error.code == "internal_error" and response_of(error, "abc").status_code == 500
    assert body_of(RequestAborted("gone")).error.code == "request_aborted"
    assert response_of(UnknownServedModel("no")).status_code == 404


async def test_every_other_method_and_content_type(served: Served) -> None:
    """Of every route of the document: 405 with all its own methods in Allow, and where it reads JSON, 415 for all else."""
    paths: dict[str, dict[str, Any]] = (await served.http.get("/openapi.json")).json()["paths"]
    wrong_types = (
        "",
        "text/plain",
        "text/html",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    )
    wrong_methods = wrong_bodies = 0
    for path, item in paths.items():
        own = {name.upper() for name in item} | ({"HEAD"} if "get" in item else set())
        for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"} - own:
            answer = await served.http.request(method, path)
            assert answer.status_code == 405, (method, path)
            assert {name.strip() for name in answer.headers["allow"].split(",")} == own, (method, path)
            if method != "HEAD":
                assert structure(answer.json(), ErrorBody).error.code == "method_not_allowed", (method, path)
            wrong_methods += 1
        if "application/json" in item.get("post", {}).get("requestBody", {}).get("content", {}):
            for kind in wrong_types:
                page = {"origin": "http://page.test"} | (
                    {"content-type": kind} if kind else {}
                )  # /v1/adapters reads text of others
                answer = await served.http.post(path, content=b"{}", headers=page)
                assert answer.status_code == 415, (path, kind)
                assert structure(answer.json(), ErrorBody).error.code == "unsupported_media_type", (path, kind)
                wrong_bodies += 1
    assert wrong_methods > 100 and wrong_bodies > 30
