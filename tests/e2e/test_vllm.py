"""The vllm backend in real processes: what a client sees, what a start refuses, and what survives a death.

One server serves nearly the whole file, in the environment `.venv-vllm`; the test that kills it comes last. Two more, one of
them on pt, are compared with each other.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
from tests.tiny_models import tiny_checkpoint

from .conftest import ServerProcess, openllm_start
from .same_over_grpc import check_both_ports

pytestmark = pytest.mark.timeout(420)

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vllm_server(
    vllm_python: str, store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """`openllm start` without a model or a backend: auto takes vLLM. Uncompiled, so that it starts sooner.

    In float32, as on CPUs without bfloat16 instructions: in bfloat16 the first token of the answer about Paris is a near tie.
    """
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    arguments = ("--startup", "fast", "--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "32")
    with openllm_start(log, *arguments, environ=store, python=vllm_python, grpc=True) as running:
        yield running


@pytest.fixture(scope="module")
def both(
    vllm_python: str, store: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, ServerProcess]]:
    """The same model on pt and on vllm, which gives up when its engine dies.

    Both compute in float32: in bfloat16 alone two tokens a tenth apart are rounded to one another.
    """
    logs = tmp_path_factory.mktemp("both")
    same = ("--dtype", "float32", "--max-model-len", "1024", "--served-model-name", "m")
    ours = ("--backend", "vllm", "--startup", "fast", "--restarts", "0")
    with ExitStack() as stack, ThreadPoolExecutor() as pool:  # at once: each mostly waits while it starts
        starts = (
            openllm_start(logs / "pt.txt", "--backend", "pt", *same, environ=store),
            openllm_start(logs / "vllm.txt", *ours, *same, environ=store, python=vllm_python),
        )
        pt, vllm = pool.map(stack.enter_context, starts)
        yield pt, vllm


@pytest.fixture
def client(vllm_server: ServerProcess) -> openai.OpenAI:
    """The real openai package, pointed at our server."""
    return openai.OpenAI(base_url=vllm_server.url + "/v1", api_key="unused", max_retries=0)


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    """The name our server gives to its model."""
    return client.models.list().data[0].id


def start(python: str, *arguments: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a start that is expected to end by itself."""
    command = [python, "-m", "openllm", "start", *arguments, "--port", "0"]
    return subprocess.run(command, env=os.environ | environ, capture_output=True, text=True, timeout=240, check=False)


async def metric(server: ServerProcess, name: str) -> float:
    """A metric, while this loop goes on reading the streams that keep the server busy."""
    return await asyncio.to_thread(server.metric, name)


async def idle(server: ServerProcess) -> None:
    """Wait until nothing runs: long before the tokens that were asked for would have come."""
    end = time.monotonic() + 10
    while await metric(server, "openllm_requests_running"):
        assert time.monotonic() < end, "what was left goes on"
        await asyncio.sleep(0.05)


def test_the_start_says_what_was_decided(vllm_server):
    """Backend and why, threads, memory and compilation: one line each."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", vllm_server.log.read_text())
    for line in (r"Backend +vllm +installed", r"Threads +\d+ on cores", r"Memory +[\d.]+ GiB", r"Startup +fast"):
        assert re.search(line, text), text


def test_a_chat_and_its_stream_agree(client, model):
    """A right answer; deltas concatenate to exactly the one-shot text; usage is told both ways."""
    arguments: dict[str, Any] = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 32}
    whole = client.chat.completions.create(**arguments)
    assert "Paris" in whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage


async def test_the_original_routes_generate_and_stream(vllm_server):
    """/v1/generate and /v1/generate_stream give the same text; sixteen streams at once take far less than sixteen in turn."""
    body = {"prompt": "Once upon a time", "llm_config": {"max_new_tokens": 24, "temperature": 0.0}}
    async with httpx.AsyncClient(timeout=240) as http:
        whole = (await http.post(vllm_server.url + "/v1/generate", json=body)).json()
    assert set(whole) == {"responses", "configuration"}

    async def stream(http: httpx.AsyncClient) -> list[str]:
        answer = await http.post(vllm_server.url + "/v1/generate_stream", json=body)
        return [line for line in answer.text.split("\n\n") if line]

    async with httpx.AsyncClient(timeout=240) as http:
        await stream(http)
        began = time.monotonic()
        lines = await stream(http)
        one_s = time.monotonic() - began
        began = time.monotonic()
        many = await asyncio.gather(*(stream(http) for _ in range(16)))
        all_s = time.monotonic() - began
    frames = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert len(frames) > 10
    assert "".join(frame["text"] for frame in frames) == str(whole["responses"][0])
    assert frames[-1]["usage"]["completion_tokens"] == 24
    assert all(found[-1] == "data: [DONE]" for found in [lines, *many])
    assert all_s < 8 * one_s


def test_sampling_fields_are_honoured(client, model):
    """n and seed, stop strings, logit_bias, logprobs."""
    arguments: dict[str, Any] = {"model": model, "prompt": "Once upon a time", "max_tokens": 16}
    drawn = [client.completions.create(**arguments, temperature=1.0, seed=7, n=3) for _ in range(2)]
    assert [c.text for c in drawn[0].choices] == [c.text for c in drawn[1].choices]
    assert len({c.text for c in drawn[0].choices}) > 1
    plain = client.completions.create(**arguments, temperature=0, logprobs=2).choices[0]
    assert len(plain.logprobs.tokens) == 16 and len(plain.logprobs.top_logprobs[0]) == 2
    word = plain.text.split()[3]
    stopped = client.completions.create(**arguments, temperature=0, stop=[word]).choices[0]
    assert stopped.text == plain.text[: plain.text.index(word)]
    assert stopped.finish_reason == "stop"
    first = client.completions.create(**arguments, temperature=0, extra_body={"return_token_ids": True})
    assert first.choices[0].text == plain.text
    biased = client.completions.create(**arguments, temperature=0, logit_bias={"28": 100}, n=1).choices[0].text
    assert biased != plain.text and len(set(biased)) == 1


def test_guided_answers_fit(client, model):
    """By schema, any JSON, expression, choice and grammar; through OpenAI's field and through guided_*."""

    def say(**extra: Any) -> str:
        answer = client.chat.completions.create(
            model=model, messages=QUESTION, temperature=0, max_tokens=64, extra_body=extra
        )
        return answer.choices[0].message.content

    for fields in (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}},
        {"guided_json": SCHEMA},
        {"structured_outputs": {"json": SCHEMA}},
    ):
        found = json.loads(say(**fields))
        assert set(found) == {"city", "people"} and isinstance(found["people"], int)
    assert re.fullmatch(r"[a-c]{3}-\d{2}", say(guided_regex=r"[a-c]{3}-\d{2}"))
    assert say(guided_choice=["yellow", "blue"]) in ("yellow", "blue")
    assert say(guided_grammar='root ::= "x" ("y" | "z")') in ("xy", "xz")


def test_a_call_that_must_come_fits_its_schema(client, model):
    """Named, and in the form that the family's calls have."""
    choice = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        tools=[{"type": "function", "function": {"name": "tell_city", "parameters": SCHEMA}}],
        tool_choice={"type": "function", "function": {"name": "tell_city"}},
        temperature=0,
        max_tokens=80,
    ).choices[0]
    (call,) = choice.message.tool_calls
    assert choice.finish_reason == "tool_calls" and call.function.name == "tell_city"
    assert json.loads(call.function.arguments).keys() == {"city", "people"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_grammar": "root ::= ((("}, "guided_grammar"),
        ({"guided_json": {"type": "no-such-type"}}, "guided_json"),
        ({"guided_regex": "(["}, "guided_regex"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 5}}}}, "response_format"),
        ({"stop_token_ids": [10**7]}, "stop_token_ids"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_400_and_named(fields, param, stream, vllm_server, model):
    """A grammar or schema that cannot be compiled: refused before a token, streaming or not."""
    body = {"model": model, "messages": QUESTION, "max_tokens": 8, "stream": stream, **fields}
    answer = httpx.post(vllm_server.url + "/v1/chat/completions", json=body, timeout=240)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(param)


async def test_many_streams_share_a_batch_and_refusals_disturb_none(vllm_server, model):
    """24 streams at once, bad grammars among them: all whole, and a mean batch of more than one."""
    body = {"model": model, "prompt": "Count: 1 2 3", "max_tokens": 24, "temperature": 0, "stream": True}

    async def stream(http: httpx.AsyncClient) -> str:
        async with http.stream("POST", vllm_server.url + "/v1/completions", json=body) as answer:
            lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
        return "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)

    async def refused(http: httpx.AsyncClient) -> float:
        began = time.monotonic()
        bad = body | {"stream": False, "guided_grammar": "root ::= ((("}
        assert (await http.post(vllm_server.url + "/v1/completions", json=bad)).status_code == 400
        return time.monotonic() - began

    async with httpx.AsyncClient(timeout=240, limits=httpx.Limits(max_connections=64)) as http:
        alone = await stream(http)
        began = time.monotonic()
        texts = asyncio.gather(*(stream(http) for _ in range(24)))
        refusals = await asyncio.gather(*(refused(http) for _ in range(4)))
        found = await texts
        took = time.monotonic() - began
    assert all(len(text) == len(alone) or text[:20] == alone[:20] for text in found)
    assert max(refusals) < took
    sequences, steps = [await metric(vllm_server, f"openllm_batch_size_{part}") for part in ("sum", "count")]
    assert sequences / steps > 1.5


async def test_bad_input_does_not_wait_for_a_slot(vllm_server, model):
    """All slots busy and others in line: each is 400 within 100 ms, its field named, and those that run go on."""
    busy = {"model": model, "prompt": "On and on", "max_tokens": 1500, "stream": True, "ignore_eos": True}
    bad: dict[str, Any] = {
        "guided_grammar": lambda n: {"guided_grammar": f'root ::= "{n}" ((('},
        "guided_json": lambda n: {"guided_json": {"type": f"no-such-{n}"}},
        "guided_regex": lambda n: {"guided_regex": f"([{n}"},
        "prompt": lambda n: {"prompt": [5] * (2100 + n)},
        "stop_token_ids": lambda n: {"stop_token_ids": [10**7 + n]},
    }

    async def stream(http: httpx.AsyncClient) -> None:
        async with http.stream("POST", vllm_server.url + "/v1/completions", json=busy) as answer:
            async for _ in answer.aiter_lines():
                pass

    async with httpx.AsyncClient(timeout=240, limits=httpx.Limits(max_connections=64)) as http:
        tasks = [asyncio.create_task(stream(http)) for _ in range(40)]
        while await metric(vllm_server, "openllm_requests_waiting") < 4:
            await asyncio.sleep(0.1)
        for param, fields in bad.items():
            seconds: list[float] = []
            for number in range(20):  # each a new one: verdicts are kept
                if number >= 5 and min(seconds) < 0.1:
                    break
                body = {"model": model, "prompt": "x", "max_tokens": 8} | fields(number)
                began = time.monotonic()
                answer = await http.post(vllm_server.url + "/v1/completions", json=body)
                seconds.append(time.monotonic() - began)
                assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text
            assert min(seconds) < 0.1, (param, seconds)  # the quickest: others use this machine too
        assert await metric(vllm_server, "openllm_requests_running") == 32
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await idle(vllm_server)


def test_grpc_answers_as_http_does(vllm_server):
    """`openllm[vllm,grpc]` in one environment: one vLLM engine behind both ports."""
    check_both_ports(vllm_server)


async def test_a_client_that_leaves_frees_its_sequence(vllm_server, model):
    """The sequence ends with its connection, long before its tokens would."""
    body = {"model": model, "prompt": "On and on", "max_tokens": 2000, "stream": True, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=240) as http:
        async with http.stream("POST", vllm_server.url + "/v1/completions", json=body) as answer:
            lines = answer.aiter_lines()  # kept: an iterator that nobody holds ends the stream
            async for line in lines:
                if line.startswith("data: {"):
                    break
            assert await metric(vllm_server, "openllm_requests_running") >= 1
        await idle(vllm_server)


async def test_the_cores_own_numbers_are_told(vllm_server, model):
    """/metrics has vLLM's own counts: of the prefix cache with each prompt, of the cache in use while one streams and after."""
    body = {"model": model, "prompt": "To be or not to be. " * 60, "max_tokens": 1}
    names = ("openllm_prefix_cache_queries_total", "openllm_prefix_cache_hits_total")
    async with httpx.AsyncClient(timeout=240) as http:
        # what one that left had asked of the cache is told after its slot is free; with the end of another at the latest
        await http.post(vllm_server.url + "/v1/completions", json=body | {"prompt": "To whom it may concern"})
        counts, tokens = [], 0
        for _ in range(3):
            counts.append([await metric(vllm_server, name) for name in names])
            answer = (await http.post(vllm_server.url + "/v1/completions", json=body)).json()
            tokens = answer["usage"]["prompt_tokens"]
        (first, first_hits), (second, second_hits) = (
            [new - old for new, old in zip(*pair, strict=True)]
            for pair in ((counts[1], counts[0]), (counts[2], counts[1]))
        )
        assert first == second == tokens > 256
        assert first_hits == 0 and 128 <= second_hits <= tokens
        long = body | {"max_tokens": 1500, "stream": True, "ignore_eos": True}
        async with http.stream("POST", vllm_server.url + "/v1/completions", json=long) as answer:
            lines = answer.aiter_lines()
            async for _ in lines:
                if await metric(vllm_server, "openllm_kv_cache_usage_ratio") > 0:
                    break
            assert 0 < await metric(vllm_server, "openllm_kv_cache_usage_ratio") < 1
    await idle(vllm_server)
    end = time.monotonic() + 10
    while await metric(vllm_server, "openllm_kv_cache_usage_ratio"):
        assert time.monotonic() < end, "what was left is still counted"
        await asyncio.sleep(0.05)
    assert await metric(vllm_server, "openllm_preemptions_total") == 0


def test_the_same_tokens_as_the_torch_backend(both, capsys):
    """40 prompts of 64 greedy tokens: at least 95 % agree up to the first near-tie (see tools/parity.py)."""
    import parity

    found = parity.run([server.url for server in both])
    good, line = parity.verdict(found)
    with capsys.disabled():
        print(f"\nparity: {line}")
    assert good, [(one.prompt, one.differs_at) for one in found if not one.agreed]


@pytest.mark.parametrize(
    ("bad", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt": [5] * 2000}, "prompt"),
        ({"prompt": [10**7]}, "prompt"),
        ({"stop_token_ids": [10**7]}, "stop_token_ids"),
        ({"logit_bias": {"10000000": 1}}, "logit_bias"),
        ({"logprobs": 1000}, "logprobs"),
        ({"model": "another"}, "model"),
    ],
)
def test_the_same_error_as_the_torch_backend(bad, param, both):
    """The same bad input: the same status and the same error, word for word."""
    body = {"model": "m", "prompt": "x", "max_tokens": 8} | bad
    pt, vllm = (httpx.post(server.url + "/v1/completions", json=body, timeout=240) for server in both)
    assert pt.status_code == vllm.status_code
    assert 400 <= pt.status_code < 500, pt.text
    assert pt.json() == vllm.json()
    assert pt.json()["error"]["param"].startswith(param)


def test_a_spent_budget_ends_the_server(both):
    """--restarts 0: with its engine killed the server exits 69. Ends one of the two: keep it after what compares them."""
    _, vllm = both
    os.kill(vllm.host_pid(), signal.SIGKILL)
    assert vllm.process.wait(60) == 69, vllm.log.read_text()


def test_an_architecture_that_vllm_lacks(vllm_python, store, tmp_path):
    """Refused by name, with the backend to use instead; auto takes that one by itself, and says why."""
    folder = tiny_checkpoint("mpt", tmp_path)
    done = start(vllm_python, str(folder), "--backend", "vllm", environ=store)
    assert done.returncode != 0
    assert "MptForCausalLM" in done.stderr and "--backend pt" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    checked = start(vllm_python, str(folder), "--check", environ=store)
    assert checked.returncode == 0, checked.stderr
    said = checked.stdout + checked.stderr
    assert re.search(r"backend +pt \(vLLM no longer has MptForCausalLM", said), said


def test_an_unknown_engine_argument(vllm_python, store, tmp_path):
    """Refused with near names, without a traceback."""
    folder = tiny_checkpoint("llama", tmp_path, wide=True)
    done = start(
        vllm_python, str(folder), "--backend", "vllm", "--engine-arg", "max-num-batched-token=64", environ=store
    )
    assert done.returncode == 78, done.stderr
    assert "max_num_batched_tokens" in done.stderr and "Traceback" not in done.stderr


def test_a_killed_engine_comes_back(vllm_server, model):
    """In-flight streams end with an error frame; the engine is restarted and answers again."""
    body = {"model": model, "prompt": "On and on", "max_tokens": 1500, "stream": True, "ignore_eos": True}
    lines: list[str] = []
    with httpx.stream("POST", vllm_server.url + "/v1/completions", json=body, timeout=240) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: "):
                lines.append(line)
                if len(lines) == 3:
                    os.kill(vllm_server.host_pid(), signal.SIGKILL)
    assert "error" in json.loads(lines[-1].removeprefix("data: "))
    vllm_server.wait_for(503)
    vllm_server.wait_for(200, within_s=240)
    again = httpx.post(
        vllm_server.url + "/v1/completions", json={**body, "stream": False, "max_tokens": 4}, timeout=240
    )
    assert again.status_code == 200, again.text


def test_embeddings_come_from_a_second_engine(vllm_server, model):
    """vLLM generates or embeds, not both: the same model on pt embeds, from the first request on, and vLLM goes on."""
    (first,) = vllm_server.host_pids()
    body = {"model": model, "input": ["two cores", "one request"]}
    answer = httpx.post(vllm_server.url + "/v1/embeddings", json=body, timeout=120).json()
    assert answer["model"] == model and len(answer["data"]) == 2
    for item in answer["data"]:
        assert len(item["embedding"]) == 576 and sum(x * x for x in item["embedding"]) == pytest.approx(1, abs=1e-4)
    assert len(vllm_server.host_pids()) == 2 and first in vllm_server.host_pids()
    said = {"model": model, "prompt": "The capital of France is", "max_tokens": 4}
    assert httpx.post(vllm_server.url + "/v1/completions", json=said, timeout=240).status_code == 200


def test_a_killed_server_takes_its_engine_along(vllm_server):
    """kill -9 of the server: nothing of its family is left after a second. Ends the file's server: keep it last."""
    family = psutil.Process(vllm_server.process.pid).children(recursive=True)
    assert family
    vllm_server.process.kill()
    vllm_server.process.wait()
    end = time.monotonic() + 1
    while (alive := [process for process in family if lives(process)]) and time.monotonic() < end:
        time.sleep(0.01)
    assert not alive


def lives(process: psutil.Process) -> bool:
    """A dead process that init has yet to collect holds nothing any more."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
