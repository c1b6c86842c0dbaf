#!/usr/bin/env python3
"""What overload does: arrivals at N times the rate that a server can keep up with, and whether those it takes are served.

Starts our server on the echo backend, measures the rate at which it finishes requests while it always has enough to do, then
sends N times as many a second whatever happens to them (open loop, Poisson arrivals, several client processes), and counts what
became of each. `--fair` sends from two keys instead: one request of one for a hundred of the other.
Run: python tools/bench_overload.py --seconds 600 --times 10 --json docs/figures/overload.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openllm.bench.surroundings import surroundings

TOKENS = 32
STEP_S = 0.02
SLOTS = 16
MAX_LAG_S = 0.25
"""A client that sends later than this behind its schedule measures itself; such a run is not reported."""
KEYS = ("polite-key", "loud-key")


class Exchange(asyncio.Protocol):
    """One connection that carries one request after another, and reads as little of the answers as tells them apart."""

    def __init__(self) -> None:
        self.done: asyncio.Future[bool] | None = None
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.open = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Part of an answer: it is whole when its length has come, or the last of its chunks."""
        self.buffer += data
        if self.done is None or self.done.done():
            return
        if self.buffer.startswith(b"HTTP/1.1 200"):
            whole = self.buffer.endswith(b"0\r\n\r\n")
        else:
            head, found, body = self.buffer.partition(b"\r\n\r\n")
            whole = bool(found) and len(body) >= _length(head)
        if whole:
            self.done.set_result(True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server ended it."""
        self.open = False
        if self.done is not None and not self.done.done():
            self.done.set_result(False)

    async def ask(self, request: bytes) -> bytes | None:
        """The answer to a request; None when the connection ended before it was whole."""
        assert self.transport is not None
        self.buffer.clear()
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        whole = await self.done
        if b"connection: close" in self.buffer[:1000]:
            self.open = False
            self.transport.close()
        return bytes(self.buffer) if whole else None


def _length(head: bytes | bytearray) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


class Client:
    """Sends requests on connections that it keeps, and judges the answers."""

    def __init__(self, port: int, key: str = "") -> None:
        self.port = port
        body = json.dumps({"model": "echo", "prompt": "x" * TOKENS, "max_tokens": TOKENS, "stream": True}).encode()
        auth = f"Authorization: Bearer {key}\r\n" if key else ""
        self.request = (
            f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{auth}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body
        self.idle: list[Exchange] = []
        self.counts: Counter[str] = Counter()
        self.refused_s: list[float] = []
        self.served_s: list[float] = []
        self.retry_after: Counter[int] = Counter()
        self.finished_at: list[float] = []
        self.lag_s: list[float] = []

    async def one(self) -> None:
        """Send one request and note what became of it."""
        began = time.perf_counter()
        try:
            exchange = self._kept() or await self._connected()
            began = time.perf_counter()
            answer = await exchange.ask(self.request)
        except OSError:
            self.counts["not connected"] += 1
            return
        took = time.perf_counter() - began
        if exchange.open and answer is not None:
            self.idle.append(exchange)
        self._judge(answer, took)

    def _kept(self) -> Exchange | None:
        while self.idle:
            exchange = self.idle.pop()
            if exchange.open:
                return exchange
        return None

    async def _connected(self) -> Exchange:
        _, exchange = await asyncio.get_running_loop().create_connection(Exchange, "127.0.0.1", self.port)
        return exchange

    def _judge(self, answer: bytes | None, took: float) -> None:
        if answer is None:
            self.counts["lost"] += 1
        elif answer.startswith(b"HTTP/1.1 200"):
            whole = b"data: [DONE]" in answer and answer.count(b'"finish_reason":"length"') == 1
            self.counts["served" if whole else "lost"] += 1
            self.served_s.append(took)
            self.finished_at.append(time.time())
        else:
            self.counts[answer[9:12].decode()] += 1
            self.refused_s.append(took)
            for line in answer.split(b"\r\n"):
                if line.lower().startswith(b"retry-after:"):
                    self.retry_after[int(line[12:])] += 1

    async def at_rate(self, rate: float, seconds: float, seed: int) -> None:
        """Send so many a second on average, however long each takes."""
        draw, tasks = random.Random(seed), set[asyncio.Task[None]]()
        began = due = time.perf_counter()
        while (due := due + draw.expovariate(rate)) < began + seconds:
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            self.lag_s.append(max(0.0, time.perf_counter() - due))
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def always(self, workers: int, seconds: float) -> None:
        """Keep so many under way all the time."""
        ends = time.perf_counter() + seconds

        async def work() -> None:
            while time.perf_counter() < ends:
                await self.one()

        await asyncio.gather(*(work() for _ in range(workers)))

    def report(self) -> dict[str, Any]:
        """What was seen, as data."""
        return {name: value for name, value in vars(self).items() if name not in ("idle", "request", "port")}


def worker(words: list[str]) -> None:
    """A client process: its orders are its arguments, its report is a line of JSON."""
    port, key, how, amount, seconds, seed = words
    client = Client(int(port), key)
    if how == "rate":
        asyncio.run(client.at_rate(float(amount), float(seconds), int(seed)))
    else:
        asyncio.run(client.always(int(amount), float(seconds)))
    print(json.dumps(client.report()))


def clients(port: int, orders: list[tuple[str, str, float, float]]) -> list[dict[str, Any]]:
    """Run client processes beside each other, one per order (key, how, amount, seconds); gives their reports."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--worker", str(port), key, how, str(amount), str(seconds), str(seed)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, (key, how, amount, seconds) in enumerate(orders)
    ]
    return [json.loads(process.communicate()[0]) for process in processes]


@contextlib.contextmanager
def server(slots: int, *words: str, **environ: str) -> Iterator[int]:
    """Our server on the echo backend, at the pace of a model; gives its port."""
    command = [sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", "0", "-o", "porcelain"]
    script = [f"step_s={STEP_S}", f"max_model_len={TOKENS * 4}"]
    command += ["--max-num-seqs", str(slots), *words]
    command += [word for setting in script for word in ("--engine-arg", setting)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | environ
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rstrip("/\n ").rpartition(":")[2])
    finally:
        process.terminate()
        process.wait()


def percentile(values: list[float], share: float) -> float:
    """The value below which so many of them lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def spread(values: list[float]) -> dict[str, float]:
    """Median, 99th percentile and greatest, in milliseconds."""
    found = {"p50": statistics.median(values) if values else 0.0, "p99": percentile(values, 0.99)}
    return {name: round(1000 * value, 2) for name, value in (found | {"max": max(values, default=0.0)}).items()}


def overload(args: argparse.Namespace) -> dict[str, Any]:
    """The rate a server keeps up with, and what becomes of N times as much."""
    with server(args.slots) as port:
        clients(port, [("", "always", args.slots, 2.0)])
        full = clients(port, [("", "always", 2 * args.slots, args.base_seconds)])
        rate = _per_second(full, args.base_seconds)
        print(f"1x: {rate:.1f} requests/s", file=sys.stderr)
        each = args.times * rate / args.clients
        seen = clients(port, [("", "rate", each, args.seconds)] * args.clients)
    counts = Counter[str]()
    for found in seen:
        counts.update(found["counts"])
    refused = [value for found in seen for value in found["refused_s"]]
    waits = Counter[str]()
    for found in seen:
        waits.update(found["retry_after"])
    refusals = sum(count for name, count in counts.items() if name.isdigit())
    goodput = _per_second(seen, args.seconds)
    return {
        "times": args.times,
        "one_x_per_s": round(rate, 2),
        "offered_per_s": round(sum(counts.values()) / args.seconds, 1),
        "seconds": args.seconds,
        "sent": sum(counts.values()),
        "served": counts["served"],
        "lost": counts["lost"],
        "not_connected": counts["not connected"],
        "refused": refusals,
        "by_status": {name: count for name, count in counts.items() if name.isdigit()},
        "with_retry_after": sum(waits.values()),
        "retry_after_s": {"least": min(map(int, waits), default=0), "most": max(map(int, waits), default=0)},
        "refusal_ms": spread(refused),
        "served_ms": spread([value for found in seen for value in found["served_s"]]),
        "goodput_per_s": round(goodput, 2),
        "goodput_share": round(goodput / rate, 4),
        "client_lag_ms": spread([value for found in seen for value in found["lag_s"]]),
    }


def _per_second(seen: list[dict[str, Any]], seconds: float) -> float:
    """Requests finished a second, between the first quarter and the end of the sending."""
    ends = sorted(at for found in seen for at in found["finished_at"])
    if not ends:
        return 0.0
    first, last = ends[0] + seconds / 4, ends[0] + seconds * 0.95
    return sum(first <= at < last for at in ends) / (last - first)


def fair(args: argparse.Namespace) -> dict[str, Any]:
    """How long a key that asks little waits, alone and beside one that asks a hundred times as much."""
    polite, loud = KEYS
    with server(args.slots, OPENLLM_API_KEY=",".join(KEYS)) as port:
        clients(port, [(polite, "always", 2, 2.0)])
        rate = args.slots / (TOKENS * STEP_S) / 10  # a tenth of what the slots could do
        alone = clients(port, [(polite, "rate", rate, args.seconds)])
        beside, flood = clients(port, [(polite, "rate", rate, args.seconds), (loud, "rate", 100 * rate, args.seconds)])
    return {
        "seconds": args.seconds,
        "polite_per_s": round(rate, 2),
        "loud_per_s": round(100 * rate, 1),
        "polite_alone_ms": spread(alone[0]["served_s"]),
        "polite_beside_ms": spread(beside["served_s"]),
        "p99_ratio": round(percentile(beside["served_s"], 0.99) / percentile(alone[0]["served_s"], 0.99), 3),
        "polite": beside["counts"],
        "loud": flood["counts"],
    }


def main() -> None:
    """Measure, print, and write where asked to."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="of overload")
    parser.add_argument("--base-seconds", type=float, default=15.0, help="of the measurement of 1x")
    parser.add_argument("--times", type=float, default=10.0)
    parser.add_argument("--slots", type=int, default=SLOTS)
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--fair", action="store_true", help="two keys, 1 to 100, in place of overload")
    parser.add_argument("--json", type=Path, help="file whose entry `overload` or `fair` is replaced")
    args = parser.parse_args()
    name = "fair" if args.fair else "overload"
    found = (fair if args.fair else overload)(args)
    print(json.dumps(found, indent=2))
    lag = found.get("client_lag_ms", {}).get("p99", 0.0)
    if lag > 1000 * MAX_LAG_S:
        raise SystemExit(f"the clients sent {lag:.0f} ms late (p99): this measured them, and is not written")
    if args.json is not None:
        kept = json.loads(args.json.read_text()) if args.json.exists() else {}
        kept[name] = {**surroundings(["python", *sys.argv]), **found}
        args.json.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
