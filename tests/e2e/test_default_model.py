"""The default model, served for real, answers what a newcomer types first: curl, the openai package, our client, LLM."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import httpx
import openai
import psutil
import pytest

import openllm_client

from .same_over_grpc import check_both_ports

pytestmark = pytest.mark.timeout(420)

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(server):
    """The real openai package, pointed at our server."""
    return openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)


@pytest.fixture
def model(client):
    """The name our server gives to its model."""
    return client.models.list().data[0].id


def test_openai_chat_gives_a_right_answer(client, model):
    """The model answers in words, with usage and a finish reason."""
    answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0, max_tokens=32)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_stream_equals_the_one_shot_answer(client, model):
    """The deltas of a stream concatenate to exactly the one-shot text; usage comes last when asked."""
    arguments = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 48}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_grpc_answers_as_http_does(server):
    """One engine behind both ports."""
    check_both_ports(server)


def test_openai_completions_with_seed_and_n(client, model):
    """A seed makes sampling repeatable, and the choices of one request differ."""
    arguments = {"model": model, "prompt": "Once upon a time", "max_tokens": 16, "temperature": 1.0, "seed": 7, "n": 3}
    first, second = (client.completions.create(**arguments) for _ in range(2))
    assert [c.text for c in first.choices] == [c.text for c in second.choices]
    assert len({c.text for c in first.choices}) > 1


def test_openai_logprobs(client, model):
    """Greedy decoding draws the most likely token, and says so."""
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    entries = answer.choices[0].logprobs.content
    assert len(entries) == answer.usage.completion_tokens
    assert all(e.logprob == e.top_logprobs[0].logprob and len(e.top_logprobs) == 3 for e in entries)


def test_openai_errors_are_typed(client, model):
    """A bad value and an unknown model raise the openai package's own error classes, with the field named."""
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model=model, messages=QUESTION, temperature=3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="no-such-model", messages=QUESTION)
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model=model, prompt="word " * 20_000)
    assert long.value.code == "context_length_exceeded"


def test_curl_line_that_start_prints_works(server):
    """The curl line in the start message streams an answer as printed."""
    printed = server.log.read_text()
    line = next(part for part in printed.replace("\\\n", " ").splitlines() if "curl -N" in part)
    done = subprocess.run(
        line[line.index("curl") :], shell=True, capture_output=True, text=True, timeout=240, check=False
    )
    assert "data: {" in done.stdout, done.stderr
    assert done.stdout.rstrip().endswith("data: [DONE]")


def test_generate_routes_agree(server):
    """/v1/generate and /v1/generate_stream give the same text, and the stream ends with usage and [DONE]."""
    body = {"prompt": "The capital of France is", "llm_config": {"max_new_tokens": 12, "temperature": 0.0}}
    whole = httpx.post(server.url + "/v1/generate", json=body, timeout=240).json()
    assert set(whole) == {"responses", "configuration"}
    lines = httpx.post(server.url + "/v1/generate_stream", json=body, timeout=240).text.split("\n\n")
    frames = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(frame["text"] for frame in frames) == str(whole["responses"][0])
    assert frames[-1]["usage"]["completion_tokens"] == 12
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_our_client_chats(server):
    """The client package speaks to the real model."""
    with openllm_client.HTTPClient(server.url, timeout=120) as ours:
        assert ours.health()
        assert "Paris" in str(ours.query("The capital of France is", max_new_tokens=8, temperature=0.0))
        assert ours.backend == "pt"


def test_server_process_stays_small(server):
    """The server process imports no torch and stays under 200 MB."""
    assert psutil.Process(server.process.pid).memory_info().rss < 200e6


def test_llm_in_process_needs_no_main_guard(store, tmp_path):
    """`openllm.LLM` works from a plain script, one-shot and streaming, and both give the same text."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import openllm
            with openllm.LLM() as llm:
                whole = llm.generate("The capital of France is", max_tokens=8, temperature=0.0)
                parts = "".join(d.text for d in llm.generate_stream("The capital of France is", max_tokens=8, temperature=0.0))
                print(repr(str(whole)), repr(parts))
        """)
    )
    done = subprocess.run(
        [sys.executable, str(script)], env=os.environ | store, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


def test_a_call_that_must_come_fits_its_schema(client, model):
    """A model that was never trained to call functions calls the one that is named, whole and streamed."""
    arguments = {
        "model": model,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}],
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
        "temperature": 0,
        "max_tokens": 100,
    }
    choice = client.chat.completions.create(**arguments).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "get_weather"
    found = json.loads(call.function.arguments)
    assert found.keys() == {"city", "unit"} and found["unit"] in ("C", "F")
    deltas = [
        delta
        for chunk in client.chat.completions.create(**arguments, stream=True)
        for delta in chunk.choices[0].delta.tool_calls or ()
    ]
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
