"""One line per request, over HTTP and gRPC: what stands in it, and what never does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.openllm.rpc.calling import calling
from tests.openllm.server.serving import chat_body, over_socket, serving, text_body

from openllm.logs import json_line
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

KEY = "the-sentinel-key"
BEARER = {"authorization": f"Bearer {KEY}"}


class Lines(logging.Handler):
    """What a server logs, as JSON lines."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += json_line(record) + "\n"

    def of(self, route: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in found if line.get("route") == route]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler, logger = Lines(), logging.getLogger("openllm")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def test_a_request_is_one_line(lines: Lines) -> None:
    """Id, route, status, the key's name, model, times and tokens."""
    async with serving(options={"api_key": (KEY,)}) as served:
        answer = await served.post("/v1/completions", text_body("hello"), **BEARER, **{"x-request-id": "mine-1"})
    (line,) = lines.of("/v1/completions")
    assert answer.status_code == 200
    expected = {
        "level": "info",
        "request_id": "mine-1",
        "protocol": "http",
        "method": "POST",
        "status": "200",
        "model": "echo",
        "key": "env-1",
        "prompt_tokens": 5,
        "completion_tokens": 6,
        "finish_reasons": ["stop"],
    }
    assert expected.items() <= line.items()
    assert 0 <= line["queue_s"] <= line["first_token_s"] <= line["duration_s"]


async def test_a_call_over_grpc_is_one_line(lines: Lines) -> None:
    """With the same facts, and the name of its status."""
    async with calling() as called:
        await called.stub.Generate(pb.GenerateRequest(prompt="hi"))
        with pytest.raises(grpc.aio.AioRpcError):
            await called.stub.Generate(pb.GenerateRequest(prompt="hi", adapter_name="nix"))
    done, refused = lines.of("/openllm.v1.OpenLLM/Generate")
    assert {"protocol": "grpc", "status": "OK", "prompt_tokens": 2, "model": "echo"}.items() <= done.items()
    assert refused["status"] != "OK" and refused["error"]


async def test_a_client_that_leaves_is_499(lines: Lines) -> None:
    """A line of its own, with what was generated until then."""
    async with serving(step_s=0.02, reply="x" * 4000) as served, over_socket(served) as http:
        body = text_body("hi", stream=True, max_tokens=2000)
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            await anext(answer.aiter_raw())
        async with asyncio.timeout(30):
            while not lines.of("/v1/completions"):
                await asyncio.sleep(0.01)
    (line,) = lines.of("/v1/completions")
    assert line["status"] == "499" and line["stream"] and 0 < line["completion_tokens"] < 2000


async def test_probes_are_told_with_debug_alone(lines: Lines) -> None:
    """What comes every few seconds would bury the rest."""
    async with serving() as served:
        await served.http.get("/readyz")
    assert [line["level"] for line in lines.of("/readyz")] == ["debug"]


async def test_what_clients_make_up_does_not_stand_in_the_log(lines: Lines) -> None:
    """No path, model, user, adapter, prompt, answer or key of a request, whatever the request comes to."""
    async with calling(options={"api_key": (KEY,)}) as called:
        post = called.served.post
        await called.served.http.get("/SENTINEL-path?SENTINEL-query", headers=BEARER)
        await called.served.http.request("SENTINELVERB", "/v1/models", headers=BEARER)
        await post("/v1/completions", text_body("SENTINEL-prompt", user="SENTINEL-user"), **BEARER)
        await post("/v1/chat/completions", chat_body("SENTINEL-prompt"), **BEARER)
        await post("/v1/chat/completions", chat_body() | {"model": "SENTINEL-model"}, **BEARER)
        await post("/v1/completions", text_body(adapter_name="../../SENTINEL"), **BEARER)
        await post("/v1/completions", text_body(SENTINEL_field=1), **BEARER)
        await post("/v1/completions", text_body(), authorization="Bearer SENTINEL-wrong-key")
        await post("/v1/completions", text_body(), **{"x-request-id": "SENTINEL id\t"})
        own = (("authorization", f"Bearer {KEY}"),)
        await called.stub.Generate(pb.GenerateRequest(prompt="SENTINEL-prompt"), metadata=own)
        with pytest.raises(grpc.aio.AioRpcError):
            await called.stub.Generate(pb.GenerateRequest(prompt="x", adapter_name="SENTINEL"), metadata=own)
    assert len(lines.text.splitlines()) >= 11
    assert "SENTINEL" not in lines.text and KEY not in lines.text


async def test_prompts_and_answers_only_where_the_operator_says_so(lines: Lines) -> None:
    """With --log-prompts a second line has both, under the request's id."""
    async with serving(options={"log_prompts": True}) as served:
        answer = await served.post("/v1/completions", text_body("the prompt", n=2))
    (line,) = [json.loads(line) for line in lines.text.splitlines() if '"openllm.prompts"' in line]
    assert line["prompt"] == "the prompt" and line["answers"] == ["the prompt"] * 2
    assert line["request_id"] == answer.headers["x-request-id"]
