#!/usr/bin/env python3
"""What holding answers to a JSON schema costs a batch on the `pt` backend: the masks are made between its steps.

    python tools/bench_masks.py [--rounds N] [--json FILE]

Starts `openllm start` with the default model and sends it as many requests at once as `--streams` says, of which none, one, a
quarter and all carry a schema, in turns on the same server. Every answer takes `--tokens` tokens: the schema asks for a list
that is longer. Tokens per second are completion tokens over the time until the last answer is there, the best of the rounds:
whatever else the machine does only ever takes away.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from openllm.bench.subjects import SERVED_NAME, ours, running
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm_core.options import StoreOptions
from openllm_core.settings import read

PROMPT = "A list of things that can be bought in a harbour town, each with its price, number "
ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}, "price": {"type": "integer"}},
    "required": ["name", "price"],
}
SCHEMA = {
    "type": "object",
    "properties": {"things": {"type": "array", "minItems": 100, "items": ITEM}},
    "required": ["things"],
}


async def batch(url: str, streams: int, held: int, tokens: int) -> float:
    """Tokens per second of `streams` requests at once, of which `held` carry the schema.

    Raises:
        SystemExit: an answer has another length, so that the batches could not be compared.
    """

    async def one(http: httpx.AsyncClient, number: int) -> int:
        body: dict[str, Any] = {"model": SERVED_NAME, "prompt": f"{PROMPT}{number}:", "temperature": 0.0}
        body |= {"max_tokens": tokens} | ({"guided_json": SCHEMA} if number < held else {"ignore_eos": True})
        answer = await http.post("/v1/completions", json=body)
        answer.raise_for_status()
        return answer.json()["usage"]["completion_tokens"]

    limits = httpx.Limits(max_connections=streams)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        began = time.perf_counter()
        made = await asyncio.gather(*(one(http, number) for number in range(streams)))
        took_s = time.perf_counter() - began
    if set(made) != {tokens}:
        raise SystemExit(f"answers of {sorted(set(made))} tokens, not of {tokens}")
    return sum(made) / took_s


def measure(url: str, streams: int, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Samples of each kind of batch on one server, in turns, after one of each that is not counted."""
    kinds = {"none": 0, "one": 1, "quarter": streams // 4, "all": streams}
    samples: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(rounds + 1):
        for kind, held in kinds.items():
            rate = asyncio.run(batch(url, streams, held, tokens if turn else 8))
            if turn:
                samples[kind].append(rate)
                print(f"{kind}: {rate:.0f} tokens/s", file=sys.stderr)
    return samples


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    os.environ["BENTOML_HOME"] = options.home
    model = resolve(None, options=options).path
    flags = ("--backend", "pt", "--max-num-seqs", str(args.streams), "--max-model-len", "1024")
    with running(ours(str(model), *flags)) as server:
        samples = measure(f"http://127.0.0.1:{server.port}", args.streams, args.tokens, args.rounds)
    best = {kind: max(found) for kind, found in samples.items()}
    result = {"samples": samples, "best": best, "streams": args.streams, "tokens": args.tokens}
    result |= {"rounds": args.rounds} | surroundings(["python", "tools/bench_masks.py", *sys.argv[1:]])
    print(json.dumps(best, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
