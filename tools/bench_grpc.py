#!/usr/bin/env python3
"""gRPC streaming of our server beside a bare grpc.aio server that sends the same messages, and server-sent events beside both.

`--streams` calls at once, each of `--tokens` messages, by one client in this process; each server in a process of its own, in
rounds one after the other. Ours runs the echo backend; where a client lags behind, its tokens come several to a message, so that
tokens are counted, and messages beside them. Prints each round's tokens per second and messages per token, medians, and the ratio. Run: python tools/bench_grpc.py --json docs/figures/grpc.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import orjson

from openllm.bench.surroundings import surroundings
from openllm_core.proto.openllm.v1 import openllm_pb2 as pb
from openllm_core.proto.openllm.v1 import openllm_pb2_grpc

LETTER = "a"


class Bare(openllm_pb2_grpc.OpenLLMServicer):
    """Sends what our server sends, made anew each time, and does nothing else."""

    async def GenerateStream(self, request: pb.GenerateRequest, context: Any) -> None:  # noqa: N802
        """As many messages of one token as the request may have, the last one with reason and counts."""
        count = request.sampling.max_tokens
        for number in range(1, count + 1):
            chunk = pb.GenerateChunk(index=0, text=LETTER, token_ids=[ord(LETTER)])
            if number == count:
                chunk.finish_reason = "length"
                chunk.usage.CopyFrom(pb.Usage(prompt_tokens=2, completion_tokens=count, total_tokens=count + 2))
            await context.write(chunk)


async def serve_bare() -> None:
    """Serve `Bare` until killed; the port is printed."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    openllm_pb2_grpc.add_OpenLLMServicer_to_server(Bare(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


@contextmanager
def started(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A server process; killed at the end."""
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def line(process: subprocess.Popen[str]) -> str:
    """What a server prints next."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextmanager
def ours(streams: int, tokens: int) -> Iterator[tuple[str, str]]:
    """Our server: addresses of gRPC and HTTP."""
    port = free_port()
    script = [f"reply={LETTER * tokens}", f"max_num_seqs={streams}", f"max_model_len={tokens + 64}"]
    words = [word for setting in script for word in ("--engine-arg", setting)]
    command = [
        "-m",
        "openllm",
        "start",
        "--backend",
        "echo",
        "--port",
        "0",
        "--grpc-port",
        str(port),
        "-o",
        "porcelain",
    ]
    with started([*command, "--max-num-seqs", str(streams), "--max-queue", str(streams), *words]) as process:
        yield f"127.0.0.1:{port}", line(process)


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


Answer = list[int]
"""Tokens of each message of one call, in the order they came."""


async def rate(streams: int, tokens: int, one: Callable[[], Awaitable[Answer]]) -> tuple[float, float]:
    """Tokens per second of `streams` calls at once, after one call to warm up, and messages per token.

    Raises:
        SystemExit: a call brought other than `tokens` tokens.
    """
    await one()
    began = time.perf_counter()
    answers = await asyncio.gather(*(one() for _ in range(streams)))
    seconds = time.perf_counter() - began
    if found := {sum(answer) for answer in answers} - {tokens}:
        raise SystemExit(f"calls brought {sorted(found)} tokens, not {tokens}")
    return streams * tokens / seconds, sum(len(answer) for answer in answers) / (streams * tokens)


async def over_grpc(address: str, streams: int, tokens: int) -> tuple[float, float]:
    """Rate of `GenerateStream`."""
    request = pb.GenerateRequest(prompt="hi", sampling=pb.SamplingParams(max_tokens=tokens))
    async with grpc.aio.insecure_channel(address) as channel:
        stub = openllm_pb2_grpc.OpenLLMStub(channel)

        async def one() -> Answer:
            return [len(chunk.token_ids) async for chunk in stub.GenerateStream(request)]

        return await rate(streams, tokens, one)


async def over_sse(url: str, streams: int, tokens: int) -> tuple[float, float]:
    """Rate of `/v1/generate_stream`; its events are read as a client would."""
    body = {"prompt": "hi", "llm_config": {"max_new_tokens": tokens}}
    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=streams)) as http:

        async def one() -> Answer:
            async with http.stream("POST", url + "/v1/generate_stream", json=body) as answer:
                lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
            return [len(orjson.loads(line[6:])["token_ids"]) for line in lines]

        return await rate(streams, tokens, one)


def measure(streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Rounds of all three, and what they come to."""
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "grpc": [], "sse": []}
    for _ in range(rounds):
        with started([__file__, "--bare"]) as process:
            found["bare"].append(asyncio.run(over_grpc(f"127.0.0.1:{line(process)}", streams, tokens)))
        with ours(streams, tokens) as (address, url):
            found["grpc"].append(asyncio.run(over_grpc(address, streams, tokens)))
            found["sse"].append(asyncio.run(over_sse(url, streams, tokens)))
    medians = {name: statistics.median(rate for rate, _ in pairs) for name, pairs in found.items()}
    messages = {name: statistics.median(share for _, share in pairs) for name, pairs in found.items()}
    return {
        "streams": streams,
        "tokens": tokens,
        "tokens_per_s": medians,
        "messages_per_token": messages,
        "rounds": found,
        "grpc_to_bare": medians["grpc"] / medians["bare"],
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", action="store_true", help="Be the bare server.")
    parser.add_argument("--json", type=Path, help="where the samples go")
    asked = parser.parse_args()
    if asked.bare:
        asyncio.run(serve_bare())
        return
    around = surroundings(["python", "tools/bench_grpc.py", *sys.argv[1:]])
    result = measure(asked.streams, asked.tokens, asked.rounds)
    print(json.dumps(result, indent=2))
    if asked.json:
        asked.json.write_text(json.dumps(result | around, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
