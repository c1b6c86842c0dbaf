#!/usr/bin/env python3
"""Embedding many short texts, beside sentence-transformers' `encode` on the same model, in turns.

    python tools/bench_embeddings.py [FOLDER] [--texts N] [--rounds N] [--json FILE]

FOLDER is a sentence encoder, by default all-MiniLM-L6-v2 of the store. Three subjects embed the same list in one call:
`encode` with its defaults, `openllm.LLM.embed` (a host process), and `client.embed` to a server (HTTP and JSON besides). All
compute in float32 with one thread per core; each round takes them in turn; the figure is the median. The largest difference
between their vectors is written too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer

from openllm import LLM
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm.serialisation.fetch import EMBEDDING_MODEL
from openllm_client import HTTPClient
from openllm_core.options import StoreOptions
from openllm_core.settings import read

Embed = Callable[[Sequence[str]], Any]
WORDS = (
    "river stone light harbour winter engine paper garden silver music bridge letter window market forest signal "
    "copper basket mountain question answer number city island morning history table blue quiet rapid simple heavy"
)


def texts_of(count: int) -> list[str]:
    """So many sentences of 4 to 16 words, always the same."""
    chosen, words = random.Random(0), WORDS.split()
    return [" ".join(chosen.choices(words, k=chosen.randint(4, 16))) for _ in range(count)]


@contextlib.contextmanager
def serving(folder: Path) -> Generator[str]:
    """`openllm start` on the encoder, ready; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "openllm", "start", str(folder), "--backend", "pt", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        with HTTPClient(url, timeout=120) as client:
            client.wait_until_ready()
        yield url
    finally:
        process.terminate()
        process.wait(30)


def compare(folder: Path, texts: list[str], rounds: int) -> dict[str, Any]:
    """Samples of all, taken in turns, their medians, ratios to `encode`, and how far the vectors lie apart."""
    peer: Any = cast(Any, SentenceTransformer)(str(folder), device="cpu")  # leaves its types open
    with (
        LLM(str(folder), backend="pt", device="cpu") as llm,
        serving(folder) as url,
        HTTPClient(url, timeout=120) as client,
    ):
        subjects: dict[str, Embed] = {
            "sentence_transformers": lambda given: peer.encode(list(given), normalize_embeddings=True),
            "llm": lambda given: llm.embed(given).embeddings,
            "server": lambda given: client.embed(given).embeddings,
        }
        vectors = {name: torch.tensor(embed(texts)) for name, embed in subjects.items()}  # also warms up
        samples: dict[str, list[float]] = {name: [] for name in subjects}
        for _ in range(rounds):
            for name, embed in subjects.items():
                begun = time.perf_counter()
                embed(texts)
                samples[name].append(time.perf_counter() - begun)
    medians = {
        name: {"wall_s": (m := statistics.median(taken)), "texts_per_s": len(texts) / m}
        for name, taken in samples.items()
    }
    first = vectors["sentence_transformers"]
    return {
        "model": folder.name if folder.parent.name == "models" else EMBEDDING_MODEL.model_id,
        "texts": len(texts),
        "words": sum(len(text.split()) for text in texts),
        "rounds": rounds,
        "medians": medians,
        "largest_difference": max(float((v - first).abs().max()) for v in vectors.values()),
        "samples_s": samples,
    }


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    folder: Path = args.folder or resolve(EMBEDDING_MODEL.model_id, options=options).path
    words = ["python", "tools/bench_embeddings.py", *sys.argv[1:]]
    result = compare(folder.resolve(), texts_of(args.texts), args.rounds) | surroundings(words)
    print(json.dumps({key: result[key] for key in ("medians", "largest_difference")}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
