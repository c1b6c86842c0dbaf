#!/usr/bin/env python3
"""Whether the time to an answer tells that another key has sent the same prompt: the Kolmogorov-Smirnov test of two samples.

One key sends a prompt; another sends the same one and one of its own, in random turns, to a server that keeps prefixes. The two
must take the same time (p > 0.01). That the test would see a difference is shown by the first key's own second time (p < 0.01).
Run: python tools/bench_prefixes.py --json docs/figures/prefixes.json, with a Python that has vLLM. Part of `hatch run full`.
Source of p: M. A. Stephens, "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables" (1970).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
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

LIMIT = 0.01
WORDS = 220
KEYS = ("first-key", "second-key")
FLAGS = ("--backend", "vllm", "--startup", "fast", "--max-model-len", "1024")


def p_of(one: list[float], other: list[float]) -> float:
    """How likely two samples of one distribution differ as much as these do, or more."""
    values = sorted({*one, *other})
    gap = max(abs(share(one, value) - share(other, value)) for value in values)
    root = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    x = (root + 0.12 + 0.11 / root) * gap
    if x < 0.2:  # where the series no longer converges, p is 1 to all digits that count
        return 1.0
    return min(1.0, max(0.0, 2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * x) ** 2) for k in range(1, 101))))


def share(sample: list[float], value: float) -> float:
    """The part of a sample that is at most this."""
    return sum(one <= value for one in sample) / len(sample)


def prompt_of(draw: random.Random) -> str:
    """A prompt that nobody has sent."""
    return " ".join(str(draw.randrange(1000)) for _ in range(WORDS))


def measure(url: str, rounds: int) -> dict[str, Any]:
    """Seconds of each kind of request: another key's prompt, one that is new, the own one again."""
    draw = random.Random()
    seconds: dict[str, list[float]] = {"known to another": [], "new": [], "known": []}
    with httpx.Client(base_url=url, timeout=600) as http:

        def ask(prompt: str, key: str) -> float:
            began = time.perf_counter()
            body = {"model": SERVED_NAME, "prompt": prompt, "max_tokens": 1}
            http.post("/v1/completions", json=body, headers={"authorization": f"Bearer {key}"}).raise_for_status()
            return time.perf_counter() - began

        for _ in range(rounds):
            prompt = prompt_of(draw)
            ask(prompt, KEYS[0])
            turns = [
                ("known to another", prompt, KEYS[1]),
                ("new", prompt_of(draw), KEYS[1]),
                ("known", prompt, KEYS[0]),
            ]
            draw.shuffle(turns)
            for kind, text, key in turns:
                seconds[kind].append(ask(text, key))
    return {
        "rounds": rounds,
        "p": p_of(seconds["known to another"], seconds["new"]),
        "p_of_the_own": p_of(seconds["known"], seconds["new"]),
        "limit": LIMIT,
        "median_s": {kind: round(statistics.median(values), 4) for kind, values in seconds.items()},
    }


def main() -> int:
    """Measure and print, write the file of figures where one is named; 1 where another's prompts can be told from new ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model; default: the default model, imported if need be")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="file of figures to write")
    asked = parser.parse_args()
    model = asked.model or str(resolve(None, options=read(StoreOptions).options).path)
    around = surroundings(["python", "tools/bench_prefixes.py", *sys.argv[1:]])
    with running(ours(model, *FLAGS, environ={"OPENLLM_API_KEY": ",".join(KEYS)})) as server:
        found = measure(f"http://127.0.0.1:{server.port}", asked.rounds)
    print(f"p = {found['p']:.3f} for another's prompts, {found['p_of_the_own']:.1e} for one's own", file=sys.stderr)
    if asked.json is not None:
        asked.json.write_text(json.dumps(around | found, indent=2) + "\n", encoding="utf-8")
    return 0 if found["p"] > LIMIT > found["p_of_the_own"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
