"""What a key may have, as its owner meets it over HTTP and gRPC: refusals, models, usage, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status
from tests.openllm.access.key_files import bearer, key_of, write
from tests.openllm.rpc.calling import Called, calling, sampling, told
from tests.openllm.server.serving import chat_body, events, over_socket, serving, text_body

from openllm.backends.base import BackendRequest
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEYS = (
    key_of("free"),
    key_of("few", requests_per_minute=2),
    key_of("thrifty", tokens_per_minute=5),
    key_of("single", concurrency=1),
    key_of("poet", models=["poet"]),
    key_of("late", priority="background"),
)
ADMIN = {"authorization": "Bearer boss"}
HI = pb.GenerateRequest(prompt="hi", sampling=sampling(max_tokens=1))


@pytest_asyncio.fixture(loop_scope="module")
async def called(tmp_path: Path) -> AsyncIterator[Called]:
    """A server with all of these keys and an admin key."""
    path = write(tmp_path / "keys", *KEYS)
    options = {"api_key_file": str(path), "admin_key": "boss", "served_model_name": ("echo", "other")}
    async with calling(options=options, reply="x") as started:
        yield started


async def post(called: Called, name: str, **more: Any) -> httpx.Response:
    """One completion with somebody's key."""
    return await called.served.post("/v1/completions", text_body(**more), **bearer(name))


async def test_a_rate_is_429_with_the_time_to_wait(called: Called) -> None:
    """Other keys are not touched, and what only reads is never refused."""
    assert [(await post(called, "few")).status_code for _ in range(4)] == [200, 200, 429, 429]
    refused = await post(called, "few")
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(refused.headers["retry-after"]) <= 30 and "few" in refused.json()["error"]["message"]
    assert (await post(called, "free")).status_code == 200
    assert (await called.served.http.get("/v1/models", headers=bearer("few"))).status_code == 200


async def test_a_rate_over_grpc_is_the_same_one(called: Called) -> None:
    """RESOURCE_EXHAUSTED with RetryInfo; HTTP's requests and gRPC's are counted together."""
    metadata = tuple(bearer("few").items())
    assert (await post(called, "few")).status_code == 200
    await called.stub.Generate(HI, metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called.stub.Generate(HI, metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert told(refused.value).code == "rate_limit_exceeded" and told(refused.value).retry
    status = rpc_status.from_call(refused.value)
    assert status is not None
    pause = RetryInfo()
    assert status.details[1].Unpack(pause) and 1 <= pause.retry_delay.seconds <= 30
    assert (await post(called, "few")).status_code == 429
    await called.stub.Metadata(pb.MetadataRequest(), metadata=metadata)


async def test_tokens_are_counted_when_an_answer_ends(called: Called) -> None:
    """Prompt and answer together; embeddings too; the next one waits until they are paid off."""
    first = await post(called, "thrifty", prompt="abcd")
    used = first.json()["usage"]["total_tokens"]
    assert first.status_code == 200 and used > 5
    assert (await post(called, "thrifty")).status_code == 429
    assert (await called.served.post("/v1/embeddings", ["text"], **bearer("thrifty"))).status_code == 429


async def test_models_that_a_key_may_not_use_are_not_there(called: Called) -> None:
    """Listed nowhere, 404 by name, and no message names them; over gRPC the same."""
    http, served = called.served.http, called.served
    names = [card["id"] for card in (await http.get("/v1/models", headers=bearer("free"))).json()["data"]]
    assert names == ["echo", "other"]
    assert (await http.get("/v1/models", headers=bearer("poet"))).json()["data"] == []
    for path, body in (
        ("/v1/completions", text_body()),
        ("/v1/chat/completions", chat_body()),
        ("/v1/embeddings", {"model": "other", "input": "x"}),
        ("/v1/embeddings", ["x"]),
        ("/v1/generate", {"prompt": "x"}),
        ("/v1/generate_stream", {"prompt": "x"}),
    ):
        answer = await served.post(path, body, **bearer("poet"))
        assert answer.status_code == 404, (path, answer.text)
        assert answer.json()["error"]["code"] == "model_not_found"
        unknown = await served.post("/v1/completions", text_body(model="nothing"), **bearer("poet"))
        assert unknown.status_code == 404 and "serves nothing that you may use" in unknown.text
    metadata = tuple(bearer("poet").items())
    assert not (await called.stub.ListModels(pb.ListModelsRequest(), metadata=metadata)).models
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await called.stub.Generate(HI, metadata=metadata)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    facts = (await http.get("/v1/metadata", headers=bearer("poet"))).json()
    assert facts["served_model_names"] == []


async def test_usage_is_the_own_ones_and_for_the_admin_everybodys(called: Called) -> None:
    """Requests, tokens, refusals and what is left, by key; no key sees another's."""
    answer = (await post(called, "few")).json()["usage"]
    (own,) = (await called.served.http.get("/v1/usage", headers=bearer("few"))).json()["data"]
    assert own["name"] == "few" and own["requests"] == 1 and own["running"] == 0
    assert {name: own[name] for name in answer} == answer
    assert own["limits"] == {"requests_per_minute": 2} and own["remaining"] == {"requests": 1}
    everybody = (await called.served.http.get("/v1/usage", headers=ADMIN)).json()["data"]
    assert [item["name"] for item in everybody] == ["admin", *(key.name for key in KEYS)]


async def test_metrics_name_keys_of_the_file_and_nothing_else(called: Called) -> None:
    """A scrape shows the own counts, the admin's all; what somebody tries to get in with is no label."""
    await post(called, "free")
    for number in range(50):
        headers = {"authorization": f"Bearer stranger-{number}"}
        assert (await called.served.http.get("/v1/models", headers=headers)).status_code == 401

    async def labels(headers: dict[str, str]) -> set[str]:
        text = (await called.served.http.get("/metrics", headers=headers)).text
        assert "stranger" not in text
        return {line.split('key="')[1].split('"')[0] for line in text.splitlines() if line.startswith("openllm_key_")}

    assert await labels(bearer("few")) == {"few"}
    assert await labels(ADMIN) == {"admin", *(key.name for key in KEYS)}
    text = (await called.served.http.get("/metrics", headers=ADMIN)).text
    assert 'openllm_key_requests_total{key="free"} 1.0' in text
    assert 'openllm_key_tokens_total{key="free",kind="completion"}' in text


async def test_the_engine_hears_whose_a_request_is(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its line can be fair between keys, background keys wait, and no key's cached prefixes are another's."""
    added: list[Any] = []
    engine = called.served.composed.engine
    add_all = engine.add_all

    async def watched(requests: Any) -> Any:
        added.extend(requests)
        streams = await add_all(requests)
        sent: list[BackendRequest] = [stream.sequences[0].backend_request for stream in streams]
        assert [one.cache_salt for one in sent] == [request.tenant for request in requests]
        return streams

    monkeypatch.setattr(engine, "add_all", watched)
    for name in ("free", "late"):
        assert (await post(called, name)).status_code == 200
        await called.stub.Generate(HI, metadata=tuple(bearer(name).items()))
    many = await called.served.post("/v1/completions", text_body(prompt=["a", "b"]), **bearer("free"))
    assert many.status_code == 200
    assert [request.tenant for request in added] == ["free", "free", "late", "late", "free", "free"]
    assert [request.priority for request in added] == ["interactive"] * 2 + ["background"] * 2 + ["interactive"] * 2


async def test_a_request_may_step_back_and_never_forward(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    """`X-OpenLLM-Priority` over HTTP and gRPC: background waits behind others, interactive is no more than the key allows."""
    added: list[Any] = []
    engine = called.served.composed.engine
    add_all = engine.add_all

    async def watched(requests: Any) -> Any:
        added.extend(requests)
        return await add_all(requests)

    monkeypatch.setattr(engine, "add_all", watched)
    for name in ("free", "late"):
        for said in ("background", "Interactive"):
            headers = bearer(name) | {"x-openllm-priority": said}
            assert (
                await called.served.http.post("/v1/completions", json=text_body(), headers=headers)
            ).status_code == 200
            await called.stub.Generate(HI, metadata=tuple(headers.items()))
    assert [one.priority for one in added] == ["background"] * 2 + ["interactive"] * 2 + ["background"] * 4


async def test_another_word_for_a_priority_is_refused(called: Called) -> None:
    """So is more than one; the header is named, over gRPC too."""
    key = list(bearer("free").items())
    wrong = [*key, ("x-openllm-priority", "urgent")]
    two = [*key, ("x-openllm-priority", "background"), ("x-openllm-priority", "interactive")]
    for headers in (wrong, two):
        refused = await called.served.http.post("/v1/completions", json=text_body(), headers=headers)
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "x-openllm-priority"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await called.stub.Generate(HI, metadata=tuple(headers))
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_streams_count_until_they_end_or_are_cut(tmp_path: Path) -> None:
    """A place is taken as long as a stream runs; one whose client leaves gives it back, and its tokens are counted."""
    path = write(tmp_path / "keys", key_of("single", concurrency=1), key_of("free"))
    options = {"api_key_file": str(path)}
    body = text_body(stream=True, max_tokens=1000)
    async with serving(options=options, reply="y" * 1000, step_s=0.01) as served, over_socket(served) as http:

        async def usage() -> dict[str, Any]:
            return (await http.get("/v1/usage", headers=bearer("single"))).json()["data"][0]

        async with http.stream("POST", "/v1/completions", json=body, headers=bearer("single")) as stream:
            lines = stream.aiter_lines()
            while "data" not in await anext(lines):
                pass
            second = await http.post("/v1/completions", json=text_body(), headers=bearer("single"))
            assert second.status_code == 429 and "1 requests under way" in second.text
            assert (await usage())["running"] == 1
        async with asyncio.timeout(20):
            while (await usage())["running"]:
                await asyncio.sleep(0.02)
        cut = await usage()
        assert 0 < cut["completion_tokens"] < 1000 and cut["prompt_tokens"] > 0
        whole = await http.post("/v1/completions", json=text_body(stream=True, max_tokens=3), headers=bearer("single"))
        assert events(whole.text)[-1] == "[DONE]"
        assert (await usage())["completion_tokens"] == cut["completion_tokens"] + 3


async def test_what_never_left_the_line_costs_no_tokens(tmp_path: Path) -> None:
    """A request that is refused for load had no tokens; it was let in by its key, so it counts as one."""
    path = write(tmp_path / "keys", key_of("ann"))
    options = {"api_key_file": str(path), "queue_timeout": 0.1}
    async with (
        serving(options=options, engine={"max_num_seqs": 1}, reply="y" * 60, step_s=0.02) as served,
        over_socket(served) as http,
    ):
        asked = http.post("/v1/completions", json=text_body(max_tokens=60), headers=bearer("ann"))
        more = [
            http.post("/v1/completions", json=text_body(prompt="z" * 200, max_tokens=1), headers=bearer("ann"))
            for _ in range(8)
        ]
        statuses = [answer.status_code for answer in await asyncio.gather(asked, *more)]
        (own,) = (await http.get("/v1/usage", headers=bearer("ann"))).json()["data"]
    assert set(statuses) == {200, 503} and own["requests"] == 9
    assert own["prompt_tokens"] <= 210 * statuses.count(200)


async def test_an_open_server_tells_what_it_did(tmp_path: Path) -> None:
    """Without keys there is one account, of everybody; it has no name and no series of its own."""
    async with serving(reply="x") as served:
        await served.post("/v1/completions", text_body())
        (only,) = (await served.http.get("/v1/usage")).json()["data"]
        assert only["name"] == "" and only["requests"] == 1 and only["total_tokens"] > 0 and only["limits"] == {}
        assert "openllm_key_" not in (await served.http.get("/metrics")).text
