#!/usr/bin/env python3
"""What a batch of several adapters costs beside the same batch of the bare base, on each backend.

    python tools/bench_adapters.py [--vllm-python PYTHON] [--rounds N] [--json FILE]

Starts `openllm start` with the default model and adapters of random weights on every linear layer, and sends it as many
requests at once as `--streams` says: all for the base, then evenly over the adapters, in turns on the same server. Tokens per
second are completion tokens over the time until the last answer is there; medians over the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from safetensors.numpy import save_file

from openllm.backends.checkpoint import read as read_checkpoint
from openllm.backends.checkpoint import safetensors_tensors
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm_core.options import StoreOptions
from openllm_core.settings import read

PROMPT = "The history of the city begins with a small harbour and a market beside it, where "
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_adapter(model: Path, folder: Path, rank: int, seed: int) -> Path:
    """An adapter of every linear layer of a model, small enough that the model goes on making sense."""
    draw = np.random.default_rng(seed)
    tensors: dict[str, Any] = {}
    for file in read_checkpoint(model).files:
        for name, (_, shape) in safetensors_tensors(file).items():
            layer = name.removesuffix(".weight")
            if layer.rpartition(".")[2] in TARGETS:
                stem = f"base_model.model.{layer}"
                tensors[f"{stem}.lora_A.weight"] = draw.normal(0, 0.02, (rank, shape[1])).astype(np.float32)
                tensors[f"{stem}.lora_B.weight"] = draw.normal(0, 0.02, (shape[0], rank)).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": TARGETS, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@contextlib.contextmanager
def served(python: str, arguments: list[str]) -> Iterator[str]:
    """A server until the block ends; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [python, "-m", "openllm", "start", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(url + "/readyz", timeout=5).status_code == 200:
                    break
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {' '.join(command)}")
            time.sleep(0.25)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


async def batch(url: str, names: list[str], tokens: int) -> float:
    """Tokens per second of one request for each name, all at once."""

    async def one(http: httpx.AsyncClient, number: int, name: str) -> int:
        sampling = {"max_new_tokens": tokens, "min_new_tokens": tokens, "ignore_eos": True, "temperature": 0.0}
        body = {"prompt": f"{PROMPT}{number}", "adapter_name": name, "llm_config": sampling, "detail": True}
        answer = await http.post("/v1/generate", json=body)
        answer.raise_for_status()
        return answer.json()["details"]["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=len(names))
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        began = time.perf_counter()
        made = await asyncio.gather(*(one(http, number, name) for number, name in enumerate(names)))
        return sum(made) / (time.perf_counter() - began)


def compare(python: str, backend: str, folders: list[Path], args: argparse.Namespace) -> dict[str, Any]:
    """Samples of both kinds of batch on one server, in turns, and the ratio of their medians."""
    given = [word for n, folder in enumerate(folders) for word in ("--adapter-id", f"{folder}:a{n}")]
    arguments = ["--backend", backend, "--max-num-seqs", str(args.streams), "--max-model-len", "1024", *given]
    arguments += ["--max-adapter-rank", str(args.rank)]
    mixed = [f"a{n % len(folders)}" for n in range(args.streams)]
    kinds = {"base": ["base"] * args.streams, "mixed": mixed}
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    with served(python, arguments) as url:
        for names in kinds.values():
            asyncio.run(batch(url, names, 16))
        for _ in range(args.rounds):
            for kind, names in kinds.items():
                samples[kind].append(asyncio.run(batch(url, names, args.tokens)))
                print(f"{backend} {kind}: {samples[kind][-1]:.0f} tokens/s", file=sys.stderr)
    medians = {kind: statistics.median(found) for kind, found in samples.items()}
    return {"samples": samples, "medians": medians, "ratio": medians["mixed"] / medians["base"]}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-python", help="Python of an environment that has vllm; without it only pt is measured")
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    os.environ["BENTOML_HOME"] = options.home
    model = resolve(None, options=options).path
    pythons = {"pt": sys.executable} | ({"vllm": args.vllm_python} if args.vllm_python else {})
    with tempfile.TemporaryDirectory() as text:
        folders = [random_adapter(model, Path(text) / str(n), args.rank, n) for n in range(args.adapters)]
        backends = {name: compare(python, name, folders, args) for name, python in pythons.items()}
    words = ["python", "tools/bench_adapters.py", *sys.argv[1:]]
    shape = {"adapters": args.adapters, "rank": args.rank, "streams": args.streams, "tokens": args.tokens}
    result = {"backends": backends, **shape, "rounds": args.rounds} | surroundings(words)
    print(json.dumps({name: (found["medians"], found["ratio"]) for name, found in backends.items()}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
