"""Measure what the client adds to each streamed token above raw httpx.

    python tools/bench_client.py --json docs/figures/client.json

A child process streams the same events over a loopback socket, one HTTP chunk a token. In each round every subject reads
one stream: httpx alone (`iter_raw`, nothing parsed), `generate_stream`, and `chat(stream=True)`, each synchronous and
asynchronous. The figure is CPU time of the reading process per token; the cost of a subject is its median over the
rounds less that of httpx alone on the same route. `import_ratio` is CPU time of `import openllm_client` over that of
importing its third-party packages bare.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from openllm_client import AsyncHTTPClient, HTTPClient

ROUTES = {"generate": "/v1/generate_stream", "chat": "/v1/chat/completions"}
BODY = {"prompt": "x", "model": "m", "messages": [{"role": "user", "content": "x"}]}
BARE = "import httpx, orjson, attrs, cattrs"


# -- the server, in its own process -----------------------------------------------------------------------------------


def stream_bytes(route: str, tokens: int) -> list[bytes]:
    """The chunks of one answer: head, one per token, end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = [head]
    for number in range(tokens):
        if route == ROUTES["generate"]:
            data: Any = {"index": 0, "text": f" word{number % 100}", "token_ids": [number], "finish_reason": None}
        else:
            choice = {"index": 0, "delta": {"content": f" word{number % 100}"}, "finish_reason": None}
            data = {"id": "chatcmpl-0123456789abcdef", "object": "chat.completion.chunk", "created": 1_790_000_000}
            data |= {"model": "smollm2-135m-instruct", "choices": [choice]}
        event = b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"
        chunks.append(b"%x\r\n%s\r\n" % (len(event), event))
    return [*chunks, b"e\r\ndata: [DONE]\n\n\r\n", b"0\r\n\r\n"]


def serve(tokens: int) -> None:
    """Answer every request on a loopback port, which is printed first; never returns."""
    answers = {route: stream_bytes(route, tokens) for route in ROUTES.values()}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                route = data.split(b" ", 2)[1].decode()
                for part in answers[route]:
                    connection.sendall(part)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # a request body left unread would turn the close into a reset
                    pass


# -- the readers ------------------------------------------------------------------------------------------------------


def raw(base: str, route: str) -> int:
    """httpx alone."""
    count = 0
    with httpx.Client(timeout=30) as client, client.stream("POST", base + route, json=BODY) as response:
        for _ in response.iter_raw():
            count += 1
    return count


async def async_raw(base: str, route: str) -> int:
    """httpx alone, asynchronous."""
    count = 0
    async with httpx.AsyncClient(timeout=30) as client, client.stream("POST", base + route, json=BODY) as response:
        async for _ in response.aiter_raw():
            count += 1
    return count


def ours(base: str, route: str) -> int:
    """Our client: typed frames or chunks."""
    with HTTPClient(base) as client:
        stream: Any = client.generate_stream("x") if route == ROUTES["generate"] else None
        count = 0
        for _ in stream or client.chat("x", model="m", stream=True):
            count += 1
    return count


async def async_ours(base: str, route: str) -> int:
    """Our asynchronous client."""
    async with AsyncHTTPClient(base) as client:
        stream: Any = client.generate_stream("x") if route == ROUTES["generate"] else None
        count = 0
        async for _ in stream or await client.chat("x", model="m", stream=True):
            count += 1
    return count


SUBJECTS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sync": (raw, ours),
    "async": (async_raw, async_ours),
}


def measure(read: Callable[..., Any], base: str, route: str, tokens: int) -> float:
    """Microseconds of CPU per token of one stream."""
    begun = time.process_time()
    count = asyncio.run(read(base, route)) if asyncio.iscoroutinefunction(read) else read(base, route)
    spent = time.process_time() - begun
    if read in (ours, async_ours) and count != tokens:
        raise SystemExit(f"{read.__name__} read {count} of {tokens} tokens")
    return spent / tokens * 1e6


def import_seconds(code: str) -> float:
    """CPU seconds of an import in a fresh process."""
    program = f"import time; t = time.process_time(); {code}; print(time.process_time() - t)"
    return float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)


def compare(base: str, tokens: int, rounds: int) -> dict[str, Any]:
    """Run all rounds; samples and medians."""
    samples: dict[str, dict[str, list[float]]] = {}
    imports: dict[str, list[float]] = {"bare": [], "openllm_client": []}
    for number in range(rounds + 1):
        for kind, (bare, client) in SUBJECTS.items():
            for name, route in ROUTES.items():
                pair = {"httpx": measure(bare, base, route, tokens), "client": measure(client, base, route, tokens)}
                if number:  # the first round warms up
                    for who, value in pair.items():
                        samples.setdefault(f"{kind}_{name}", {}).setdefault(who, []).append(value)
        if number:
            imports["bare"].append(import_seconds(BARE))
            imports["openllm_client"].append(import_seconds("import openllm_client"))
    medians: dict[str, Any] = {}
    for subject, both in samples.items():
        found = {who: statistics.median(values) for who, values in both.items()}
        medians[subject] = found | {"added_us_per_token": found["client"] - found["httpx"]}
    medians["import_ratio"] = statistics.median(imports["openllm_client"]) / statistics.median(imports["bare"])
    return {"medians": medians, "samples": samples, "imports_s": imports}


def surroundings() -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": {name: version(name) for name in ("openllm-client", "httpx", "orjson", "attrs")},
    }


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=5000, help="tokens a stream")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="where the samples go")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.tokens)
    command = [sys.executable, __file__, "--serve", "--tokens", str(args.tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            result = compare(f"http://127.0.0.1:{server.stdout.readline().strip()}", args.tokens, args.rounds)
        finally:
            server.kill()
    result |= {"command": " ".join(["python", "tools/bench_client.py", *sys.argv[1:]]), **surroundings()}
    print(json.dumps(result["medians"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
