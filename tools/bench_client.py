"""Measure what the client adds to each streamed token above raw httpx.

    python tools/bench_client.py --json docs/figures/client.json

A stream comes out of httpx's transport seam one event at a time, without a socket, so that only the reader's work counts.
In each round every subject reads it twice: httpx alone (`iter_raw`, nothing parsed) and our client (typed frames or
chunks). The figure is CPU time of the process per token; what the client adds is the median over the rounds of its time
less that of httpx just before. `import_ratio` is CPU time of `import openllm_client`, whose names load on first use, and of
`from openllm_client import HTTPClient`, over that of importing their third-party packages bare. `requests` has what 1,000 requests of one token to an echo server take, 32 at a time: over one
`AsyncHTTPClient`, and over one `httpx.AsyncClient` that sends the same body and parses the JSON; `rate` is the median of the
rounds' quotients, above 1 where ours is the faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from openllm.bench.surroundings import surroundings
from openllm_client import AsyncHTTPClient, HTTPClient

ROUTES = {"generate": "/v1/generate_stream", "chat": "/v1/chat/completions"}
BASE = "http://localhost:3000"
BODY = {"prompt": "x", "model": "m", "messages": [{"role": "user", "content": "x"}]}
IMPORTS = {
    "bare": "import httpx, orjson, attrs, cattrs",
    "package": "import openllm_client",
    "client": "from openllm_client import HTTPClient",
}


# -- the streams ------------------------------------------------------------------------------------------------------


def events(route: str, tokens: int) -> list[bytes]:
    """The events of one answer as our server writes them."""
    found: list[bytes] = []
    for number in range(tokens):
        if route == ROUTES["generate"]:
            data: Any = {"index": 0, "text": f" word{number % 100}", "token_ids": [number], "finish_reason": None}
        else:
            choice = {"index": 0, "delta": {"content": f" word{number % 100}"}, "logprobs": None, "finish_reason": None}
            data = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1_790_000_000}
            data |= {"model": "smollm2-135m-instruct", "system_fingerprint": None, "choices": [choice]}
        found.append(b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n")
    return [*found, b"data: [DONE]\n\n"]


def transports(tokens: int) -> tuple[httpx.MockTransport, httpx.MockTransport]:
    """A synchronous and an asynchronous transport that stream the answer of each route."""
    answers = {route: events(route, tokens) for route in ROUTES.values()}
    headers = {"content-type": "text/event-stream"}

    async def pieces(route: str) -> AsyncIterator[bytes]:
        for piece in answers[route]:
            yield piece

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, content=iter(answers[request.url.path]))

    def async_answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=headers, content=pieces(request.url.path))

    return httpx.MockTransport(answer), httpx.MockTransport(async_answer)


# -- the readers ------------------------------------------------------------------------------------------------------


def raw(transport: Any, route: str) -> float:
    """httpx alone: CPU seconds of one stream."""
    with httpx.Client(transport=transport) as client:
        begun = time.process_time()
        with client.stream("POST", BASE + route, json=BODY) as response:
            for _ in response.iter_raw():
                pass
        return time.process_time() - begun


async def async_raw(transport: Any, route: str) -> float:
    """httpx alone, asynchronous."""
    async with httpx.AsyncClient(transport=transport) as client:
        begun = time.process_time()
        async with client.stream("POST", BASE + route, json=BODY) as response:
            async for _ in response.aiter_raw():
                pass
        return time.process_time() - begun


def ours(transport: Any, route: str) -> float:
    """Our client: typed frames or chunks."""
    with HTTPClient(BASE, transport=transport) as client:
        begun = time.process_time()
        if route == ROUTES["generate"]:
            for _ in client.generate_stream("x"):
                pass
        else:
            for _ in client.chat("x", model="m", stream=True):
                pass
        return time.process_time() - begun


async def async_ours(transport: Any, route: str) -> float:
    """Our asynchronous client."""
    async with AsyncHTTPClient(BASE, transport=transport) as client:
        begun = time.process_time()
        if route == ROUTES["generate"]:
            async for _ in client.generate_stream("x"):
                pass
        else:
            async for _ in await client.chat("x", model="m", stream=True):
                pass
        return time.process_time() - begun


SUBJECTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sync": (raw, ours),
    "async": (async_raw, async_ours),
}


def measure(read: Callable[..., Any], transport: Any, route: str, tokens: int) -> float:
    """Microseconds of CPU per token of one stream."""
    spent = read(transport, route)
    return (asyncio.run(spent) if asyncio.iscoroutine(spent) else spent) / tokens * 1e6


def import_seconds(code: str) -> float:
    """CPU seconds of an import in a fresh process."""
    program = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def compare(tokens: int, rounds: int) -> dict[str, Any]:
    """Run all rounds; samples and medians."""
    samples: dict[str, dict[str, list[float]]] = {}
    imports: dict[str, list[float]] = {name: [] for name in IMPORTS}
    through = dict(zip(SUBJECTS, transports(tokens), strict=True))
    for number in range(rounds + 1):
        for kind, (bare, client) in SUBJECTS.items():
            for name, route in ROUTES.items():
                pair = {
                    "httpx": measure(bare, through[kind], route, tokens),
                    "client": measure(client, through[kind], route, tokens),
                }
                if number:  # the first round warms up
                    for who, value in pair.items():
                        samples.setdefault(f"{kind}_{name}", {}).setdefault(who, []).append(value)
        if number:
            for name, code in IMPORTS.items():
                imports[name].append(import_seconds(code))
    medians: dict[str, Any] = {}
    for subject, both in samples.items():
        added = [client - bare for client, bare in zip(both["client"], both["httpx"], strict=True)]
        medians[subject] = {f"{who}_us_per_token": statistics.median(values) for who, values in both.items()}
        medians[subject]["added_us_per_token"] = statistics.median(added)
    seconds = {name: statistics.median(spent) for name, spent in imports.items()}
    medians["imports_ms"] = {name: value * 1e3 for name, value in seconds.items()}
    medians["import_ratio"] = {name: value / seconds["bare"] for name, value in seconds.items()}
    return {"medians": medians, "samples": samples, "imports_s": imports}


# -- requests of one token --------------------------------------------------------------------------------------------


@contextmanager
def echo_server() -> Iterator[str]:
    """A server of one token without a model, in a process of its own; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            with HTTPClient(address) as client:
                client.wait_until_ready(60)
            yield address
        finally:
            process.terminate()


async def many(ask: Callable[[], Awaitable[Any]], count: int, at_once: int = 32) -> float:
    """Seconds that `count` requests take."""

    async def worker(number: int) -> None:
        for _ in range(number, count, at_once):
            await ask()

    begun = time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(at_once)))
    return time.perf_counter() - begun


async def requests(address: str, count: int, rounds: int) -> dict[str, Any]:
    """The two clients in turn, as often as there are rounds; seconds of each, and the median quotient."""
    body = {"prompt": "x", "llm_config": {"max_new_tokens": 1}}
    seconds: dict[str, list[float]] = {"httpx": [], "client": []}
    async with httpx.AsyncClient(base_url=address, timeout=60) as bare, AsyncHTTPClient(address, timeout=60) as client:

        async def raw_ask() -> None:
            answer = await bare.post("/v1/generate", json=body)
            answer.raise_for_status()
            answer.json()

        for number in range(rounds + 1):
            pair = {
                "httpx": await many(raw_ask, count),
                "client": await many(lambda: client.generate("x", {"max_new_tokens": 1}), count),
            }
            if number:  # the first round warms up
                for who, value in pair.items():
                    seconds[who].append(value)
    rates = [bare / ours for bare, ours in zip(seconds["httpx"], seconds["client"], strict=True)]
    return {"count": count, "seconds": seconds, "rate": statistics.median(rates)}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens a stream")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--requests", type=int, default=1000, help="requests of one token a round")
    parser.add_argument("--request-rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    result = compare(args.tokens, args.rounds)
    with echo_server() as address:
        result["requests"] = asyncio.run(requests(address, args.requests, args.request_rounds))
    result["medians"]["request_rate"] = result["requests"]["rate"]
    result |= surroundings(["python", "tools/bench_client.py", *sys.argv[1:]])
    print(json.dumps(result["medians"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
