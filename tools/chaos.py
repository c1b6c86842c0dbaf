"""Ends servers and engines again and again while streams run, and counts what was cut in silence or left behind.

    python tools/chaos.py drains|engine-kills|server-kills|disconnects [--runs N] [--backend echo|pt|vllm] [--model FOLDER]

Each run starts from `openllm start` in a process of its own, as an operator would. What was counted is printed as JSON and,
with --output, put under piece and backend into that file; --add adds it to what stands there, and lists each portion with its
date, commit and processor. Exit 1 when anything was lost. Knows HTTP and processes only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
STREAMS = 4
GRACE_S = 1.0
PATIENCE_S = 120.0
PATH = "/v1/completions"
PROMPT = "Tell a long story. "
KILLS_EACH = 3
"""Kills that one server has to bear: those that it may restart its engine for."""
SHARED_MEMORY = Path("/dev/shm")
OF_OPENMP = re.compile(r"__KMP_REGISTERED_LIB_(\d+)_\d+")
"""Made by whatever process loads OpenMP, by its number, and not mapped for long."""
OURS: set[int] = set()
"""Numbers of all processes of our servers that were seen."""
RUNS = {"drains": 100, "engine-kills": 100, "server-kills": 100, "disconnects": 2000}
ENDINGS = ("done", "told", "refused", "broken", "silent")


@attrs.define
class Subject:
    """What is served.

    Attributes:
        python: interpreter with the backend.
        model: folder; "" for echo.
    """

    backend: str
    python: str
    model: str

    def command(self, port: int, *more: str) -> list[str]:
        """Starts a server."""
        words = [self.python, "-m", "openllm", "start", *([self.model] if self.model else [])]
        words += ["--backend", self.backend, "--port", str(port), "-o", "porcelain", "--drain-grace", str(GRACE_S)]
        if self.backend == "echo":
            words += ["--engine-arg", "step_s=0.01"]
        return [*words, *more]


@attrs.define
class Server:
    """A running server and what it printed."""

    process: asyncio.subprocess.Process
    url: str
    model: str
    log: Path

    def family(self) -> list[psutil.Process]:
        """The server and all that descends from it."""
        top = psutil.Process(self.process.pid)
        found = [top, *top.children(recursive=True)]
        OURS.update(one.pid for one in found)
        return found

    def host(self) -> psutil.Process:
        """Its engine host."""
        for one in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "openllm.engine.host" in one.cmdline():
                    return one
        raise LookupError("no engine host")

    async def end(self) -> int:
        """Exit code."""
        return await asyncio.wait_for(self.process.wait(), PATIENCE_S)


@contextlib.asynccontextmanager
async def serving(subject: Subject, folder: Path, port: int = 0, *more: str) -> AsyncIterator[Server]:
    """A server that is ready; killed if it still lives in the end."""
    log = folder / "server.log"
    with log.open("ab") as file:
        process = await asyncio.create_subprocess_exec(
            *subject.command(port, *more), stdout=subprocess.PIPE, stderr=file, cwd=folder
        )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 10 * PATIENCE_S)
        if not line:
            raise RuntimeError(f"the server ended with {await process.wait()}:\n{log.read_text()[-2000:]}")
        url = line.decode().strip()
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            models = (await http.get(f"{url}/v1/models")).json()["data"]
        server = Server(process, url, models[0]["id"], log)
        server.family()
        yield server
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def stream(http: httpx.AsyncClient, model: str, begun: asyncio.Event) -> str:
    """Follow one stream to its end, and say how that was (one of ENDINGS)."""
    body = {"prompt": PROMPT * random.randint(1, 20), "max_tokens": random.randint(20, 600), "stream": True}
    last = ""
    try:
        async with http.stream(
            "POST", PATH, json={"model": model, "ignore_eos": True, "temperature": 0, **body}
        ) as answer:
            if answer.status_code != 200:
                await answer.aread()
                return "refused"
            async for line in answer.aiter_lines():
                begun.set()
                last = line.removeprefix("data: ") if line.startswith("data: ") else last
    except (httpx.TransportError, OSError):
        return "broken"
    finally:
        begun.set()
    if last == "[DONE]":
        return "done"
    return "told" if last and "error" in json.loads(last) else "silent"


@contextlib.asynccontextmanager
async def streams(server: Server) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Several streams under way, each at a place of its own."""
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as http:
        begun = [asyncio.Event() for _ in range(STREAMS)]
        tasks = [asyncio.create_task(stream(http, server.model, event)) for event in begun]
        await asyncio.gather(*(event.wait() for event in begun))
        if bad := [task.result() for task in tasks if task.done() and task.result() != "done"]:
            raise RuntimeError(f"before anything was done to the server, streams ended as {bad}")
        await asyncio.sleep(random.uniform(0, 0.1))
        yield tasks


def segments() -> set[str]:
    """What is in shared memory."""
    return {file.name for file in SHARED_MEMORY.glob("*")} if SHARED_MEMORY.is_dir() else set()


def left_in_memory(before: set[str]) -> set[str]:
    """Shared memory that came since, that no living process has mapped, and that is not of a process that is none of ours: what
    others use is theirs."""
    mapped: set[str] = set()
    for file in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
            mapped |= {line.partition(f"{SHARED_MEMORY}/")[2] for line in lines if f"{SHARED_MEMORY}/" in line}
    new = segments() - before - mapped
    return {name for name in new if not (of := OF_OPENMP.fullmatch(name)) or int(of[1]) in OURS}


async def left_of(family: list[psutil.Process], *, zombies: bool = True, limit_s: float = 5.0) -> list[str]:
    """Processes of a family that are still there when there was time to go.

    Args:
        zombies: whether those that nobody has reaped count; not where their parent was killed and another one has to.
    """
    end = time.monotonic() + limit_s
    while left := [f"{one.pid} {how}" for one in family if (how := state(one)) and (zombies or how != "zombie")]:
        if time.monotonic() > end:
            return left
        await asyncio.sleep(0.01)
    return []


def state(process: psutil.Process) -> str:
    """Of a process; "" when there is none any more."""
    try:
        return str(process.status()) if process.is_running() else ""
    except psutil.NoSuchProcess:
        return ""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


# -- the pieces


async def drains(subject: Subject, runs: int, folder: Path) -> dict[str, Any]:
    """SIGTERM at a random moment: every stream comes whole or is told, exit 0, nothing stays."""
    endings: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    orphans: list[str] = []
    took: list[float] = []
    before = segments()
    for run in range(runs):
        async with serving(subject, folder) as server:
            family = server.family()
            async with streams(server) as tasks:
                began = time.monotonic()
                server.process.terminate()
                endings.update(await asyncio.gather(*tasks))
            codes[await server.end()] += 1
            took.append(time.monotonic() - began)
            orphans += await left_of(family)
        tell("drains", run, runs)
    lost = endings["silent"] + endings["broken"] + sum(codes.values()) - codes[0]
    return {
        **counted(endings, orphans, left_in_memory(before), lost),
        "exit_codes": {str(code): count for code, count in codes.items()},
        "samples": {"ended_s": took},
    }


async def engine_kills(subject: Subject, runs: int, folder: Path) -> dict[str, Any]:
    """kill -9 of the engine host: every stream is told at once, the next engine comes by itself, no zombie stays."""
    endings: Counter[str] = Counter()
    orphans: list[str] = []
    told_s: list[float] = []
    back_s: list[float] = []
    before = segments()
    codes: list[int | None] = []
    for first in range(0, runs, KILLS_EACH):
        async with serving(subject, folder) as server:
            for run in range(first, min(runs, first + KILLS_EACH)):
                await kill_engine(server, endings, orphans, told_s, back_s)
                tell("engine kills", run, runs)
            if server.process.returncode is None:
                server.process.terminate()
            codes.append(await server.end())
    lost = endings["silent"] + endings["broken"] + sum(code != 0 for code in codes)
    return {
        **counted(endings, orphans, left_in_memory(before), lost),
        "samples": {"told_s": told_s, "ready_again_s": back_s},
    }


async def kill_engine(
    server: Server, endings: Counter[str], orphans: list[str], told_s: list[float], back_s: list[float]
) -> None:
    """One kill, and what became of it."""
    host = server.host()
    family = [host, *host.children(recursive=True)]
    async with streams(server) as tasks:
        began = time.monotonic()
        host.kill()
        endings.update(await asyncio.gather(*tasks))
        told_s.append(time.monotonic() - began)
    await until_ready(server)
    back_s.append(time.monotonic() - began)
    orphans += await left_of(family)


async def server_kills(subject: Subject, runs: int, folder: Path) -> dict[str, Any]:
    """kill -9 of the server: connections break, nothing stays, and the next start on the same port works."""
    endings: Counter[str] = Counter()
    orphans: list[str] = []
    gone_s: list[float] = []
    before, port = segments(), free_port()
    for run in range(runs):
        async with serving(subject, folder, port) as server:
            family = server.family()[1:]
            async with streams(server) as tasks:
                server.process.kill()
                began = time.monotonic()
                await server.end()
                orphans += await left_of(family, zombies=False)
                gone_s.append(time.monotonic() - began)
                endings.update(await asyncio.gather(*tasks))
        tell("server kills", run, runs)
    return {
        **counted(endings, orphans, left_in_memory(before), endings["silent"]),
        "samples": {"all_gone_s": gone_s},
    }


async def disconnects(subject: Subject, runs: int, folder: Path) -> dict[str, Any]:
    """A client leaves in the middle of its stream, by FIN or by RST: seconds until its slot is free."""
    freed_s: list[float] = []
    async with serving(subject, folder) as server:
        async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as http:
            for run in range(runs):
                freed_s.append(await leave(server, http, reset=run % 2 == 1))
                tell("disconnects", run, runs)
            busy = await gauge(http, "openllm_requests_running") + await gauge(http, "openllm_requests_waiting")
        server.process.terminate()
        await server.end()
    return {"lost": int(busy), "samples": {"slot_free_s": freed_s}}


PIECES: dict[str, Callable[[Subject, int, Path], Awaitable[dict[str, Any]]]] = {
    "drains": drains,
    "engine-kills": engine_kills,
    "server-kills": server_kills,
    "disconnects": disconnects,
}


async def leave(server: Server, http: httpx.AsyncClient, *, reset: bool) -> float:
    """Begin a stream, go after its first event, and wait until no request runs; seconds from going to that."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    asked = {"model": server.model, "prompt": PROMPT, "max_tokens": 2000, "stream": True, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await reader.readuntil(b"data: ")
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    began = time.monotonic()
    writer.close()
    while await gauge(http, "openllm_requests_running"):
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError("its slot is never freed")
    return time.monotonic() - began


async def gauge(http: httpx.AsyncClient, name: str) -> float:
    """Sum of a metric's samples."""
    lines = (await http.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))


async def until_ready(server: Server) -> None:
    """Wait until it takes requests again."""
    end = time.monotonic() + 5 * PATIENCE_S
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as http:
        while (await http.get("/readyz")).status_code != 200:
            if time.monotonic() > end:
                raise TimeoutError(f"not ready again:\n{server.log.read_text()[-2000:]}")
            await asyncio.sleep(0.01)


# -- counting


def counted(endings: Counter[str], orphans: list[str], leftovers: set[str], lost: int) -> dict[str, Any]:
    """What every piece tells."""
    return {
        "lost": lost + len(orphans) + len(leftovers),
        "streams": {name: endings[name] for name in ENDINGS},
        "orphans": orphans,
        "shared_memory_left": sorted(leftovers),
    }


def at(values: list[float], share: float) -> float:
    """Quantile, by nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def tell(what: str, run: int, runs: int) -> None:
    """Progress, now and then."""
    if (run + 1) % max(1, runs // 10) == 0:
        print(f"{what}: {run + 1} of {runs}", file=sys.stderr, flush=True)


def subject_of(arguments: argparse.Namespace) -> Subject:
    """By backend: echo needs no model, vllm its own interpreter."""
    python = str(ROOT / ".venv-vllm/bin/python") if arguments.backend == "vllm" else sys.executable
    if arguments.backend != "echo" and not arguments.model:
        raise SystemExit(f"--model: the {arguments.backend} backend needs a folder.")
    return Subject(arguments.backend, python, str(Path(arguments.model).resolve()) if arguments.model else "")


def main() -> int:
    """Run one piece."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("piece", choices=PIECES)
    parser.add_argument("--runs", type=int)
    parser.add_argument("--backend", choices=("echo", "pt", "vllm"), default="echo")
    parser.add_argument("--model", default="")
    parser.add_argument("--add", action="store_true", help="add to what the file has of this piece")
    parser.add_argument("--output", type=Path, help="JSON file that gets the figures, beside those of other pieces")
    arguments = parser.parse_args()
    runs = arguments.runs or RUNS[arguments.piece]
    subject = subject_of(arguments)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_RUNTIME_DIR"] = folder
        found = asyncio.run(PIECES[arguments.piece](subject, runs, Path(folder)))
        notes = [file.name for file in Path(folder).rglob("*.json")] if arguments.piece != "server-kills" else []
    found["lost"] += len(notes)
    model = {"model": Path(subject.model).name} if subject.model else {}
    found = {"backend": subject.backend, **model, "runs": runs, **found, "notes_left": notes}
    if arguments.output is not None:
        found = record(arguments, found)
    print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=2))
    return int(found["lost"] > 0)


def record(arguments: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Put the figures of a piece beside those of the others; what its file then has of it."""
    path: Path = arguments.output
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    by_backend: dict[str, Any] = data.setdefault(arguments.piece, {})
    now = about(git.stdout.strip())
    portion = {"runs": found["runs"], "lost": found["lost"], "date": now["date"], "commit": now["commit"]}
    found["portions"] = [portion | {"cpu": now["cpu"]}]
    if arguments.add and (before := by_backend.get(found["backend"])):
        whole = {"runs": before["runs"], "lost": before["lost"], "date": data["date"], "commit": before["commit"]}
        found = added({"portions": [whole]} | before, found)
    found["samples"] = {key: [round(value, 4) for value in values] for key, values in found["samples"].items()}
    quantiles = {
        f"{key}_{word}": at(values, share)
        for key, values in found["samples"].items()
        for word, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
    }
    told = by_backend[found["backend"]] = {"commit": now["commit"], **found, **quantiles}
    data |= now
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return told


def about(commit: str) -> dict[str, Any]:
    """Where and with what the pieces of a file were run."""
    packages = ("openllm", "uvicorn", "starlette", "httpx")
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "command": "hatch run chaos",
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }


def added(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Two results as one: what is counted and listed adds up, member by member."""
    found: dict[str, Any] = {}
    for key, value in now.items():
        if isinstance(value, dict):
            held: dict[str, Any] = before.get(key, {})
            found[key] = {**held, **{name: held[name] + one if name in held else one for name, one in value.items()}}
        else:
            found[key] = value if isinstance(value, str) else before.get(key, type(value)()) + value
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
