#!/usr/bin/env python3
"""Seconds from the command to the first request that can be answered: ours on the vllm backend, and vLLM's own server, in turns.

    python tools/bench_starts.py [--model FOLDER] [--peer-python PATH] [--rounds N] [--json FILE]

Each round gives either server an empty folder for what it compiles, starts it (cold) and starts it again (second); then
ours with `--startup fast` and the peer with `--enforce-eager`, which compile nothing. Run it with the Python that has both; the
figure is the median.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from openllm.bench.rounds import in_turns
from openllm.bench.subjects import Subject, ours, peer, running
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm_core.options import StoreOptions
from openllm_core.settings import read


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


def cached_in(subject: Subject, folder: Path) -> Subject:
    """The same server with everything it compiles in `folder`."""
    places = {"VLLM_CACHE_ROOT": "vllm", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
    environ = {name: str(folder / place) for name, place in places.items()}
    return attrs.evolve(subject, environ={**subject.environ, **environ})


def ready_s(subject: Subject) -> dict[str, Any]:
    """Start it, wait until it is ready, end it."""
    with running(subject) as server:
        say(f"ready after {server.ready_s:.1f} s")
        return {"ready_s": server.ready_s, "levels": []}


def cold_and_second(subject: Subject) -> dict[str, Any]:
    """Two starts over one folder that was empty before the first."""
    with tempfile.TemporaryDirectory() as folder:
        place = cached_in(subject, Path(folder))
        cold, second = ready_s(place)["ready_s"], ready_s(place)["ready_s"]
    return {"ready_s": cold, "cold_s": cold, "second_s": second, "levels": []}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of the model; default: the default model, imported if need be")
    parser.add_argument("--peer-python", default=sys.executable, help="Python that has vLLM")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    model = args.model or str(resolve(None, options=read(StoreOptions).options).path)
    around = surroundings(["python", "tools/bench_starts.py", *sys.argv[1:]])
    mine = ours(model, "--backend", "vllm")
    fast = ours(model, "--backend", "vllm", "--startup", "fast")
    theirs = peer("vllm", model, python=args.peer_python)
    eager = peer("vllm", model, "--enforce-eager", python=args.peer_python)
    measures = {
        "openllm": lambda: cold_and_second(mine),
        "vllm": lambda: cold_and_second(theirs),
        "openllm_fast": lambda: ready_s(fast),
        "vllm_eager": lambda: ready_s(eager),
    }
    result = in_turns(measures, args.rounds, say) | around
    print(json.dumps(result["medians"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
