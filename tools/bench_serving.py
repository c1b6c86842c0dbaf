"""Measure servers of the same model on the same machine, in turns, and write the samples as JSON.

    python tools/bench_serving.py speed --json docs/figures/serving.json       ours, the raw loop, transformers serve
    python tools/bench_serving.py overhead --json docs/figures/overhead.json   CPU per streamed token of the server

A round runs every subject once, one server alive at a time, all concurrencies inside it; ratios come from medians over
the rounds. The load generator speaks HTTP over plain asyncio streams so that it takes little of the cores it shares.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from bench_prompts import PROMPTS

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


# -- one request ------------------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """One streamed request: seconds to the first token and to the end, and tokens received."""

    first_s: float
    total_s: float
    tokens: int


async def stream_once(port: int, body: dict[str, Any]) -> Sample:
    """POST /v1/chat/completions as a stream and count its chunks that carry text.

    Raises:
        RuntimeError: the answer is no 200 or the stream carried an error.
    """
    payload = json.dumps(body).encode()
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(payload)}\r\nConnection: close\r\n\r\n".encode() + payload)
    first = 0.0
    chunks = 0
    usage = 0
    try:
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{status!r} {await reader.read(2000)!r}")
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            if b'"error"' in line[:20]:
                raise RuntimeError(line.decode())
            if b'"usage":{' in line or b'"usage": {' in line:
                usage = json.loads(line[6:])["usage"]["completion_tokens"]
            if b'"content":' in line and b'"content":""' not in line:
                chunks += 1
                first = first or time.perf_counter()
    finally:
        writer.close()
    return Sample(first - started, time.perf_counter() - started, usage or chunks)


def chat_body(model: str, prompt: str, max_tokens: int, extra: dict[str, Any]) -> dict[str, Any]:
    """A greedy chat request of one user message."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
        **extra,
    }


@dataclass
class Load:
    """What `concurrency` simultaneous streams gave."""

    concurrency: int
    tokens_per_s: float
    first_token_p50_s: float
    first_token_p95_s: float
    tokens: int
    seconds: float


async def run_load(port: int, model: str, concurrency: int, max_tokens: int, extra: dict[str, Any]) -> Load:
    """Start `concurrency` streams at once, each with its own prompt, and wait for all."""
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(concurrency)]
    started = time.perf_counter()
    samples = await asyncio.gather(*(stream_once(port, chat_body(model, p, max_tokens, extra)) for p in prompts))
    seconds = time.perf_counter() - started
    firsts = sorted(s.first_s for s in samples)
    tokens = sum(s.tokens for s in samples)
    p95 = firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))]
    return Load(concurrency, tokens / seconds, statistics.median(firsts), p95, tokens, seconds)


# -- servers ----------------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """How to start one server, when it is ready and what its requests carry besides the common body."""

    name: str
    command: Callable[[int], list[str]]
    ready_path: str
    model: str
    extra: dict[str, Any] = field(default_factory=dict)


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(server: Server, timeout_s: float = 300) -> Iterator[tuple[int, subprocess.Popen[bytes], float]]:
    """Start a server in its own group, wait until it is ready, and end it with its group afterwards.

    Yields:
        (port, process, seconds until ready).
    """
    port = free_port()
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(server.command(port), stdout=log, stderr=log, start_new_session=True)
        try:
            while not _answers(port, server.ready_path):
                if process.poll() is not None or time.perf_counter() - started > timeout_s:
                    log.seek(0)
                    raise RuntimeError(f"{server.name} did not start:\n{log.read().decode()[-3000:]}")
                time.sleep(0.05)
            yield port, process, time.perf_counter() - started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _answers(port: int, path: str) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            return b" 200 " in connection.recv(64)
    except OSError:
        return False


def cpu_s(pid: int) -> float:
    """CPU seconds (user and system) a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def ours(model_dir: str, *flags: str) -> Server:
    """`openllm start DIR` on the pt backend."""
    return Server(
        "openllm",
        lambda port: [
            *(sys.executable, "-m", "openllm", "start", model_dir, "--backend", "pt", "--port", str(port)),
            *("--served-model-name", "bench", *flags),
        ],
        "/readyz",
        "bench",
        {"ignore_eos": True, "stream_options": {"include_usage": True}},
    )


def transformers_serve(model_dir: str, max_tokens: int, dtype: str) -> Server:
    """`transformers serve --continuous-batching` on the same folder; an impossible end token keeps it going."""
    generation = {"max_new_tokens": max_tokens, "do_sample": False, "eos_token_id": -1}
    return Server(
        "transformers",
        lambda port: [
            str(Path(sys.executable).with_name("transformers")),
            "serve",
            model_dir,
            "--continuous-batching",
            "--dtype",
            dtype,
            "--port",
            str(port),
        ],
        "/health",
        model_dir,
        {"generation_config": json.dumps(generation)},
    )


# -- what is measured -------------------------------------------------------------------------------------------------


async def measure(server: Server, concurrencies: list[int], max_tokens: int) -> dict[str, Any]:
    """Start `server`, time its first request, warm up, and run each concurrency once."""
    with running(server) as (port, process, ready_s):
        cold = await stream_once(port, chat_body(server.model, PROMPTS[0], 16, server.extra))
        await run_load(port, server.model, 4, 16, server.extra)
        loads = [asdict(await run_load(port, server.model, c, max_tokens, server.extra)) for c in concurrencies]
        return {
            "ready_s": ready_s,
            "first_request_s": cold.first_s,
            "server_memory_bytes": memory_bytes(process.pid),
            "loads": loads,
        }


def raw_loop(model_dir: str, concurrencies: list[int], max_tokens: int, dtypes: list[str]) -> dict[str, Any]:
    """The raw loop of stock transformers over the same prompts, in a process of its own (see bench_raw.py)."""
    script = Path(__file__).with_name("bench_raw.py")
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, str(script), "--model", model_dir, "--only", "raw", "--json", out.name]
        command += ["--max-tokens", str(max_tokens), "--sequences", *map(str, concurrencies)]
        command += ["--dtype", *dtypes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(out.name).read_bytes())


def default_model() -> str:
    """Folder of the default model in the store."""
    from openllm.serialisation import resolve
    from openllm_core.options import StoreOptions
    from openllm_core.settings import read

    return str(resolve(None, options=read(StoreOptions).options).path)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of ours, the raw loop and the peer, in turns."""
    if args.model is None:
        args.model = default_model()
    subjects: dict[str, Callable[[], dict[str, Any]]] = {
        "openllm": lambda: asyncio.run(measure(ours(args.model), args.concurrency, args.max_tokens)),
        "raw": lambda: raw_loop(args.model, args.concurrency, args.max_tokens, args.peer_dtype),
        "transformers": lambda: asyncio.run(
            measure(
                transformers_serve(args.model, args.max_tokens, args.peer_dtype[-1]), args.concurrency, args.max_tokens
            )
        ),
    }
    rounds: list[dict[str, Any]] = []
    for number in range(args.rounds):
        done: dict[str, Any] = {}
        for name in args.subjects:
            print(f"round {number + 1}/{args.rounds}: {name}", file=sys.stderr)
            done[name] = subjects[name]()
            print(json.dumps(done[name])[:600], file=sys.stderr)
        rounds.append(done)
    return {"rounds": rounds, "medians": medians(rounds)}


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Per subject and concurrency: the median over rounds of each figure."""
    found: dict[str, Any] = {}
    for name in rounds[0]:
        loads = [r[name]["loads"] for r in rounds]
        found[name] = {
            str(group[0]["concurrency"]): {
                key: statistics.median(load[key] for load in group)
                for key in ("tokens_per_s", "first_token_p50_s", "first_token_p95_s")
            }
            for group in zip(*loads, strict=True)
        }
        for key in ("ready_s", "first_request_s", "server_memory_bytes"):
            if key in rounds[0][name]:
                found[name][key] = statistics.median(r[name][key] for r in rounds)
    return found


async def _overhead_once(streams: int, max_tokens: int) -> dict[str, Any]:
    server = Server(
        "openllm-echo",
        lambda port: [
            *(sys.executable, "-m", "openllm", "start", "--backend", "echo", "--port", str(port)),
            *("--engine-arg", f"max_num_seqs={streams}", "--engine-arg", "step_s=0.02"),
        ],
        "/readyz",
        "echo",
        {"ignore_eos": True, "stream_options": {"include_usage": True}},
    )
    with running(server) as (port, process, _):
        await run_load(port, server.model, streams, 16, server.extra)
        before = cpu_s(process.pid)
        load = await run_load(port, server.model, streams, max_tokens, server.extra)
        used = cpu_s(process.pid) - before
        memory = memory_bytes(process.pid)
    return {"cpu_us_per_token": used / load.tokens * 1e6, "tokens": load.tokens, "server_memory_bytes": memory}


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """CPU of the server process per streamed token, echo backend."""
    runs = [asyncio.run(_overhead_once(args.streams, args.max_tokens)) for _ in range(args.rounds)]
    keys = ("cpu_us_per_token", "server_memory_bytes")
    return {
        "streams": args.streams,
        "rounds": runs,
        "medians": {key: statistics.median(run[key] for run in runs) for key in keys},
    }


# -- context of a figure ----------------------------------------------------------------------------------------------


def surroundings() -> dict[str, Any]:
    """Machine, versions and commit a figure belongs to."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cpu = names[0].split(":", 1)[1].strip() if names else platform.processor()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": {p: of(p) for p in ("openllm", "torch", "transformers", "uvicorn", "uvloop")},
    }


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed", help="tokens/s and time to first token against peers")
    fast.add_argument("--model", help="folder of the model; default: the default model, imported if need be")
    fast.add_argument("--concurrency", type=int, nargs="+", default=[1, 32])
    fast.add_argument("--subjects", nargs="+", default=["openllm", "raw", "transformers"])
    fast.add_argument(
        "--peer-dtype",
        nargs="+",
        default=["bfloat16", "float32"],
        help="types the raw loop tries (its best counts); the last is the peer server's",
    )
    cost = commands.add_parser("overhead", help="CPU per streamed token of the server process")
    cost.add_argument("--streams", type=int, default=64)
    for command in (fast, cost):
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--max-tokens", type=int, default=128)
        command.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    result = {"speed": speed, "overhead": overhead}[args.command](args)
    typed = ["FOLDER" if argument == args.__dict__.get("model") else argument for argument in sys.argv[1:]]
    result |= {"command": " ".join(["python", "tools/bench_serving.py", *typed]), **surroundings()}
    print(json.dumps(result["medians"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
