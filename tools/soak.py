#!/usr/bin/env python3
"""Ask a server a hundred thousand times and see whether it grows: memory and file descriptors of all its processes.

    python tools/soak.py [--requests N] [--clients N] [--limit-s SECONDS] [--json FILE]

Starts `openllm start --backend echo` and sends it every kind of request in turn: streams and one-shot answers of all routes that
generate, embeddings, lists, refused ones, and clients that leave. Memory is the resident set of the server, its engine host and
whatever they started, sampled with nothing under way; the growth is from the first tenth, which warms up, to the last one. Ends
with 1 when it is more than 1 %, when descriptors were left open, or when an answer was not the expected one. Past the limit it stops
and says how many requests it came to. The time it took is that in which requests were under way, without what the samples take.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psutil

from openllm.bench.exchange import Address, ExchangeFailed
from openllm.bench.surroundings import surroundings

ROOT = Path(__file__).resolve().parent.parent
MODEL = "m"
SAMPLES = 50
EDGE = 5  # samples at either end that the growth is taken between
ALLOWED_GROWTH = 0.01
LEAVE_S = 0.01
PATIENCE_S = 60.0

TEXT = {"model": MODEL, "prompt": "once upon a time", "max_tokens": 16}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "once upon a time"}], "max_tokens": 16}
GENERATE = {"prompt": "once upon a time", "llm_config": {"max_new_tokens": 16}}
LONG = TEXT | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
KINDS: list[tuple[str, str, str, dict[str, Any] | None, int]] = [
    # name, method, path, body, status
    ("completion", "POST", "/v1/completions", TEXT, 200),
    ("completion stream", "POST", "/v1/completions", TEXT | {"stream": True}, 200),
    ("chat", "POST", "/v1/chat/completions", CHAT, 200),
    ("chat stream", "POST", "/v1/chat/completions", CHAT | {"stream": True, "logprobs": True, "top_logprobs": 2}, 200),
    ("generate", "POST", "/v1/generate", GENERATE, 200),
    ("generate stream", "POST", "/v1/generate_stream", GENERATE, 200),
    ("embeddings", "POST", "/v1/embeddings", {"model": MODEL, "input": ["one", "two"]}, 200),
    ("models", "GET", "/v1/models", None, 200),
    ("refused", "POST", "/v1/completions", TEXT | {"temperature": 9}, 400),
    ("unknown", "GET", "/nowhere", None, 404),
]
LEAVES_EVERY = 20


@contextlib.contextmanager
def serving() -> Generator[tuple[psutil.Process, str]]:
    """A ready echo server and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", str(port)]
    command += ["--served-model-name", MODEL, "--engine-arg", "embed=8"]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"BENTOML_HOME": home, "OPENLLM_HOME": home}
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(ready(Address(url)))
            yield psutil.Process(process.pid), url
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


async def ready(address: Address) -> None:
    """Wait until it serves."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(ExchangeFailed):
            if (await address.request("GET", "/readyz", timeout_s=5)).status == 200:
                return
        await asyncio.sleep(0.1)
    raise SystemExit("the server never became ready")


async def ask(address: Address, number: int, wrong: Counter[str]) -> None:
    """The request of that number; one in `LEAVES_EVERY` is left while it streams."""
    if number % LEAVES_EVERY == LEAVES_EVERY - 1:
        with contextlib.suppress(ExchangeFailed):
            await address.request("POST", "/v1/completions", json.dumps(LONG).encode(), timeout_s=LEAVE_S)
        return
    name, method, path, body, status = KINDS[number % len(KINDS)]
    data = b"" if body is None else json.dumps(body).encode()
    try:
        reply = await address.request(method, path, data, timeout_s=PATIENCE_S)
    except ExchangeFailed as error:
        wrong[f"{name}: {error.kind}"] += 1
        return
    if reply.status != status or (name.endswith("stream") and not reply.body.rstrip().endswith(b"data: [DONE]")):
        wrong[f"{name}: status {reply.status}"] += 1


async def portion(address: Address, numbers: range, clients: int, wrong: Counter[str]) -> float:
    """Ask a range of requests with so many clients, then wait until nothing of them is under way; seconds that took."""
    waiting, began = iter(numbers), time.monotonic()

    async def client() -> None:
        for number in waiting:
            await ask(address, number, wrong)

    await asyncio.gather(*(client() for _ in range(clients)))
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        text = (await address.request("GET", "/metrics", timeout_s=PATIENCE_S)).body.decode()
        running = [line for line in text.splitlines() if line.startswith("openllm_requests_running")]
        if all(float(line.rsplit(" ", 1)[1]) == 0 for line in running):
            return time.monotonic() - began
        await asyncio.sleep(0.05)
    wrong["requests that never ended"] += 1
    return time.monotonic() - began


def look(server: psutil.Process) -> dict[str, Any]:
    """Resident bytes and open files, in sum and of each process."""
    family = [server, *server.children(recursive=True)]
    each: list[dict[str, Any]] = [
        {"name": role(one), "rss_bytes": one.memory_info().rss, "fds": one.num_fds(), "threads": one.num_threads()}
        for one in family
    ]
    return {
        "rss_bytes": sum(one["rss_bytes"] for one in each),
        "fds": sum(one["fds"] for one in each),
        "processes": each,
    }


def role(process: psutil.Process) -> str:
    """What a process of the server is, by its command line."""
    words = " ".join(process.cmdline())
    known = {"openllm.engine.host": "engine host", "watchdog": "watchdog", "openllm start": "server"}
    return next(
        (name for word, name in known.items() if word in words), "template renderer" if "chat" in words else "other"
    )


def growth(samples: list[dict[str, Any]], what: str) -> float:
    """Share by which a number grew between the two ends of the samples after the warm-up."""
    kept = samples[len(samples) // 10 :]
    first, last = (statistics.median(one[what] for one in part) for part in (kept[:EDGE], kept[-EDGE:]))
    return (last - first) / first


def measure(requests: int, clients: int, limit_s: float) -> dict[str, Any]:
    """Ask, sample, judge."""
    wrong: Counter[str] = Counter()
    samples: list[dict[str, Any]] = []
    gc.disable()  # ours, not the server's: it would only slow the clients down
    with serving() as (server, url):
        address, took_s = Address(url), 0.0
        for number in range(SAMPLES):
            step = range(number * requests // SAMPLES, (number + 1) * requests // SAMPLES)
            took_s += asyncio.run(portion(address, step, clients, wrong))
            time.sleep(0.2)
            samples.append({"requests": step.stop, "after_s": round(took_s, 1), **look(server)})
            told = {name: samples[-1][name] for name in ("requests", "after_s", "rss_bytes", "fds")}
            print(json.dumps(told), file=sys.stderr, flush=True)
            gc.collect()
            if took_s > limit_s:
                break
    kept, requests = samples[len(samples) // 10 :], samples[-1]["requests"]
    grown, fds = growth(samples, "rss_bytes"), [one["fds"] for one in kept]
    return {
        "requests": requests,
        "clients": clients,
        "took_s": round(took_s, 1),
        "requests_per_s": round(requests / took_s, 1),
        "left_early": requests // LEAVES_EVERY,
        "wrong": dict(wrong),
        "growth": round(grown, 5),
        "rss_first_bytes": kept[0]["rss_bytes"],
        "rss_last_bytes": kept[-1]["rss_bytes"],
        "fds_first": fds[0],
        "fds_last": fds[-1],
        "fds_most": max(fds),
        "passed": not wrong and grown <= ALLOWED_GROWTH and fds[-1] <= fds[0],
        "samples": samples,
    }


def main() -> int:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument(
        "--limit-s", type=float, default=3600.0, help="seconds after which no further requests are sent"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "figures" / "soak.json")
    asked = parser.parse_args()
    about = surroundings(["tools/soak.py", *sys.argv[1:]])
    found = about | measure(asked.requests, asked.clients, asked.limit_s)
    asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in found.items() if name not in ("samples", "versions")}, indent=1))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
