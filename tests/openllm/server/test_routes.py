"""Every route answers as documented, over the real engine with the echo backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.openllm.server.serving import Served, chat_body, events, serving

from openllm_core.schema import ChatCompletion, ChatCompletionChunk, Completion, Metadata, ModelList, StreamFrame
from openllm_core.serde import structure

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPLY = "Grüße, world 🙂!"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served() -> AsyncIterator[Served]:
    """One app for the module; it always answers REPLY."""
    async with serving(reply=REPLY) as started:
        yield started


async def test_chat_answers_in_openai_shape(served: Served) -> None:
    """A chat completion has every field OpenAI's has, of the right type."""
    answer = await served.post("/v1/chat/completions", chat_body())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    parsed = structure(body, ChatCompletion)
    assert parsed.id.startswith("chatcmpl-") and parsed.object == "chat.completion" and parsed.model == "echo"
    assert parsed.choices[0].message.content == REPLY and parsed.choices[0].finish_reason == "stop"
    assert body["system_fingerprint"] is None and body["choices"][0]["logprobs"] is None
    usage = parsed.usage
    assert usage.completion_tokens == len(REPLY.encode()) + 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_chat_stream_joins_to_the_one_shot_answer(served: Served) -> None:
    """Deltas concatenate to exactly the one-shot text; the role comes first, the reason last, then [DONE]."""
    one_shot = (await served.post("/v1/chat/completions", chat_body())).json()["choices"][0]
    answer = await served.post("/v1/chat/completions", chat_body(stream=True))
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events(answer.text)
    assert done == "[DONE]"
    parsed = [structure(chunk, ChatCompletionChunk) for chunk in chunks]
    assert len({(c.id, c.created, c.model) for c in parsed}) == 1
    assert parsed[0].choices[0].delta.role == "assistant" and parsed[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in parsed) == one_shot["message"]["content"]
    assert [c.choices[0].finish_reason for c in parsed if c.choices[0].finish_reason] == [one_shot["finish_reason"]]
    assert parsed[-1].choices[0].finish_reason and not any("usage" in chunk for chunk in chunks)


async def test_chat_stream_sends_usage_when_asked(served: Served) -> None:
    """With include_usage the last chunk has usage and no choices, and all others say null."""
    body = chat_body(stream=True, stream_options={"include_usage": True}, max_tokens=4)
    *chunks, done = events((await served.post("/v1/chat/completions", body)).text)
    assert done == "[DONE]"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 4
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


async def test_chat_with_several_choices(served: Served) -> None:
    """n choices come back in order, streaming and not, and count in usage."""
    answer = (await served.post("/v1/chat/completions", chat_body(n=3))).json()
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert {c["message"]["content"] for c in answer["choices"]} == {REPLY}
    assert answer["usage"]["completion_tokens"] == 3 * (len(REPLY.encode()) + 1)
    *chunks, _ = events((await served.post("/v1/chat/completions", chat_body(n=2, stream=True))).text)
    texts = ["", ""]
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [REPLY, REPLY]


async def test_chat_logprobs(served: Served) -> None:
    """Chat log-probabilities: one object per token with bytes and the likely ones, streamed the same."""
    body = chat_body(logprobs=True, top_logprobs=2, max_tokens=3)
    content = (await served.post("/v1/chat/completions", body)).json()["choices"][0]["logprobs"]["content"]
    assert [bytes(token["bytes"]) for token in content] == [b"G", b"r", "ü".encode()[:1]]
    assert all(token["logprob"] <= 0 and len(token["top_logprobs"]) == 2 for token in content)
    *chunks, _ = events((await served.post("/v1/chat/completions", body | {"stream": True})).text)
    streamed = [
        t for c in chunks for choice in c["choices"] if choice["logprobs"] for t in choice["logprobs"]["content"]
    ]
    assert streamed == content


async def test_developer_and_parts_become_plain_text(served: Served) -> None:
    """`developer` is `system`, and text parts are joined: the prompt is as long as with plain messages."""
    plain = [{"role": "system", "content": "be\nkind"}, {"role": "user", "content": "hi"}]
    parts = [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]
    rich = [{"role": "developer", "content": parts}, {"role": "user", "content": "hi"}]
    counts = [
        (await served.post("/v1/chat/completions", {"model": "echo", "messages": m})).json()["usage"]["prompt_tokens"]
        for m in (plain, rich)
    ]
    assert counts[0] == counts[1]


async def test_completions_one_and_many_prompts(served: Served) -> None:
    """Texts, token ids and lists of both are prompts; choices are numbered prompt by prompt."""
    for prompt, count in (("ab", 1), (["ab", "c"], 2), ([97, 98], 1), ([[97], [98, 99]], 2)):
        body = {"model": "echo", "prompt": prompt, "max_tokens": 4, "n": 2}
        answer = await served.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        parsed = structure(answer.json(), Completion)
        assert parsed.object == "text_completion" and parsed.id.startswith("cmpl-")
        assert [c.index for c in parsed.choices] == list(range(2 * count))
        assert {(c.text, c.finish_reason) for c in parsed.choices} == {("Grü", "length")}


async def test_completions_stream_joins_to_the_one_shot_answer(served: Served) -> None:
    """The stream of two prompts concatenates per choice to the one-shot texts; echo puts the prompt first."""
    body = {"model": "echo", "prompt": ["one:", "two:"], "echo": True, "stream": True}
    *chunks, done = events((await served.post("/v1/completions", body)).text)
    texts = ["", ""]
    for chunk in chunks:
        structure(chunk, Completion)
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    one_shot = (await served.post("/v1/completions", body | {"stream": False})).json()
    assert done == "[DONE]"
    assert texts == [c["text"] for c in one_shot["choices"]] == ["one:" + REPLY, "two:" + REPLY]


async def test_completion_logprobs_are_four_lists_of_one_length(served: Served) -> None:
    """Completion log-probabilities: parallel lists, offsets counting on across streamed chunks."""
    body = {"model": "echo", "prompt": "x", "logprobs": 2, "max_tokens": 2}
    found = (await served.post("/v1/completions", body)).json()["choices"][0]["logprobs"]
    assert found["tokens"] == ["G", "r"] and found["text_offset"] == [0, 1]
    assert [len(top) for top in found["top_logprobs"]] == [2, 2]
    *chunks, _ = events((await served.post("/v1/completions", body | {"stream": True})).text)
    offsets = [o for chunk in chunks for c in chunk["choices"] if c["logprobs"] for o in c["logprobs"]["text_offset"]]
    assert offsets == [0, 1]


async def test_stop_string_is_not_returned(served: Served) -> None:
    """A stop string ends the text before itself, streamed and not."""
    body = chat_body(stop=["world"])
    choice = (await served.post("/v1/chat/completions", body)).json()["choices"][0]
    assert choice["message"]["content"] == "Grüße, " and choice["finish_reason"] == "stop"
    *chunks, _ = events((await served.post("/v1/chat/completions", body | {"stream": True})).text)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Grüße, "


async def test_generate_has_exactly_two_keys(served: Served) -> None:
    """`/v1/generate` answers `responses` and `configuration`; details only when asked for."""
    body = {"prompt": "Hi", "llm_config": {"max_new_tokens": 50, "generation_config": {"temperature": 0.5}}}
    answer = (await served.post("/v1/generate", body)).json()
    assert set(answer) == {"responses", "configuration"}
    assert answer["responses"] == [REPLY]
    assert answer["configuration"]["generation_config"]["temperature"] == 0.5
    detailed = (await served.post("/v1/generate", body | {"detail": True})).json()
    assert set(detailed) == {"responses", "configuration", "details"}
    assert detailed["details"]["finish_reasons"] == ["stop"]
    assert detailed["details"]["usage"]["prompt_tokens"] == 2


async def test_generate_stream_frames(served: Served) -> None:
    """Frames of `/v1/generate_stream` concatenate to the one-shot answer; the very last one carries usage."""
    body = {"prompt": "Hi", "llm_config": {"max_new_tokens": 50, "n": 2}}
    answer = await served.post("/v1/generate_stream", body)
    *frames, done = events(answer.text)
    assert done == "[DONE]"
    texts = ["", ""]
    for frame in frames:
        parsed = structure(frame, StreamFrame)
        texts[parsed.index] += parsed.text
    assert texts == [REPLY, REPLY]
    assert [f["finish_reason"] for f in frames if f["finish_reason"]] == ["stop", "stop"]
    assert "usage" in frames[-1] and not any("usage" in f for f in frames[:-1])
    *echoed, _ = events((await served.post("/v1/generate_stream", {"prompt": "Hi", "echo": True})).text)
    assert echoed[0] == {"index": 0, "text": "Hi", "token_ids": [], "finish_reason": None}


async def test_generate_stream_as_plain_text(served: Served) -> None:
    """`Accept: text/plain` gives the bare text; it cannot carry two choices."""
    body = {"prompt": "Hi", "llm_config": {"max_new_tokens": 50}}
    answer = await served.post("/v1/generate_stream", body, accept="text/plain")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8" and answer.text == REPLY
    body["llm_config"]["n"] = 2
    refused = await served.post("/v1/generate_stream", body, accept="text/plain")
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "llm_config.n"


async def test_metadata_by_get_and_by_post_of_anything(served: Served) -> None:
    """Metadata needs no body and no content type, and speaks one of 0.3.5's families."""
    got = await served.http.get("/v1/metadata")
    posted = await served.http.post("/v1/metadata", content=b"", headers={"content-type": "text/plain; charset=utf-8"})
    assert got.json() == posted.json()
    parsed = structure(got.json(), Metadata)
    assert parsed.model_name == "llama" and parsed.model_id == "echo" and parsed.context_length == 4096
    assert '"generation_config"' in parsed.configuration


async def test_models(served: Served) -> None:
    """`/v1/models` lists the names `model` takes."""
    parsed = structure((await served.http.get("/v1/models")).json(), ModelList)
    assert [card.id for card in parsed.data] == ["echo"] and parsed.data[0].max_model_len == 4096


async def test_health_routes(served: Served) -> None:
    """Alive and ready answer 200 with what holds."""
    assert (await served.http.get("/livez")).json() == {"status": "alive"}
    assert (await served.http.get("/readyz")).json() == {"status": "ready"}
    assert (await served.http.get("/healthz")).json() == {"status": "ready"}


async def test_several_engines_are_counted_where_readiness_is_told() -> None:
    """With `--engines 2` the routes are the same; /readyz says how many answer, metrics tell them apart."""
    async with serving(options={"engines": "2"}, reply="hi") as served:
        while served.composed.engine.ready_of != (2, 2):
            await asyncio.sleep(0.01)
        assert (await served.http.get("/readyz")).json() == {"status": "ready", "engines_ready": 2, "engines": 2}
        assert (await served.http.get("/livez")).json() == {"status": "alive"}
        reply = await served.post("/v1/completions", {"model": "echo", "prompt": "x"})
        assert reply.json()["choices"][0]["text"] == "hi"
        text = (await served.http.get("/metrics")).text
        assert 'openllm_engine_ready{engine="0"} 1.0' in text
        assert 'openllm_engine_ready{engine="1"} 1.0' in text


async def test_metrics_count_requests_and_tokens_in_closed_labels(served: Served) -> None:
    """Requests by route and status, tokens, latencies, queue and batch are there; unknown paths share one label."""
    await served.post("/v1/chat/completions", chat_body())
    for number in range(20):
        await served.http.get(f"/made-up-{number}")
    text = (await served.http.get("/metrics")).text
    for name in (
        'openllm_http_requests_total{route="/v1/chat/completions",status="200"}',
        'openllm_http_requests_total{route="other",status="404"} 20.0',
        "openllm_generation_tokens_total",
        "openllm_time_to_first_token_seconds_bucket",
        "openllm_inter_token_latency_seconds_bucket",
        "openllm_requests_waiting",
        "openllm_batch_size_bucket",
    ):
        assert name in text, name
    assert "made-up" not in text


async def test_served_model_names() -> None:
    """Each name given to the server is accepted in `model`, and only those."""
    async with serving(options={"served_model_name": ("one", "two")}, reply="x") as named:
        for name, status in (("one", 200), ("two", 200), ("echo", 404)):
            answer = await named.post("/v1/completions", {"model": name, "prompt": "p"})
            assert answer.status_code == status
        assert [m["id"] for m in (await named.http.get("/v1/models")).json()["data"]] == ["one", "two"]


async def test_unknown_fields_are_named_in_a_header_or_refused(served: Served) -> None:
    """Unknown fields of the OpenAI routes are listed in X-OpenLLM-Ignored, refused under --strict."""
    body = chat_body(max_tokens=1, frobnicate=1) | {"metadata": {"a": "b"}}
    answer = await served.post("/v1/chat/completions", body)
    assert answer.status_code == 200 and answer.headers["x-openllm-ignored"] == "frobnicate, metadata"
    streamed = await served.post("/v1/chat/completions", body | {"stream": True})
    assert streamed.headers["x-openllm-ignored"] == "frobnicate, metadata"
    async with serving(options={"strict": True}, reply="x") as strict:
        refused = await strict.post("/v1/chat/completions", body)
        assert refused.status_code == 400
        assert (
            refused.json()["error"]["code"] == "unknown_parameter" and refused.json()["error"]["param"] == "frobnicate"
        )


async def test_own_fields_without_effect_are_listed(served: Served) -> None:
    """A family's own field that only clients act on is accepted by `/v1/generate*` and named in X-OpenLLM-Ignored."""
    for path in ("/v1/generate", "/v1/generate_stream"):
        answer = await served.post(path, {"prompt": "x", "llm_config": {"use_llama2_prompt": True}})
        assert answer.status_code == 200
        assert answer.headers["x-openllm-ignored"] == "llm_config.use_llama2_prompt"
        repeated = await served.post(path, {"prompt": "x", "llm_config": {"use_llama2_prompt": False}})
        assert "x-openllm-ignored" not in repeated.headers  # the default, as 0.3.5's clients send it
