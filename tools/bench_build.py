#!/usr/bin/env python3
"""How long `openllm build` takes for a model that is in the store: making the Bento, and finding it made.

    python tools/bench_build.py [MODEL] [--rounds N] [--json FILE]

MODEL is what `openllm start` takes, by default the default model. Each run is the command as a user types it, in a process
of its own, Python's start included; processor seconds are those of it and its children. The Bento is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openllm.bench.surroundings import surroundings
from openllm.serialisation import bento_record, resolve
from openllm.serialisation.store import Store
from openllm_core.options import StoreOptions
from openllm_core.settings import read

VERSION = "bench-build"


def timed(model: str, *flags: str) -> tuple[dict[str, float], str]:
    """Wall and processor seconds of one command, and the tag it printed."""
    command = [sys.executable, "-m", "openllm", "build", model, "--bento-version", VERSION, "-o", "porcelain", *flags]
    began, before = time.perf_counter(), os.times()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": time.perf_counter() - began, "cpu_s": cpu_s}, done.stdout.strip()


def measure(model: str, rounds: int, options: StoreOptions) -> dict[str, Any]:
    """Seconds of a fresh build and of one that finds it, in turns, the first pair left out; and sizes in bytes."""
    samples: dict[str, list[dict[str, float]]] = {"fresh": [], "again": []}
    tag = ""
    for number in range(rounds + 1):
        fresh, tag = timed(model, "--overwrite")
        again, _ = timed(model)
        if number:
            samples["fresh"].append(fresh)
            samples["again"].append(again)
    store = Store(options)
    bento = bento_record.find(options, tag)
    assert bento is not None
    sizes = {
        "bento_bytes": sum(path.stat().st_size for path in bento.path.rglob("*") if path.is_file()),
        "model_bytes": bento.model(store).size_bytes,
    }
    store.remove(bento.path)
    medians = {
        name: {key: statistics.median(sample[key] for sample in taken) for key in ("wall_s", "cpu_s")}
        for name, taken in samples.items()
    }
    return {"rounds": rounds, "medians": medians, "sizes": sizes, "samples": samples}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    resolve(args.model, options=options)  # imported before anything is timed
    result = measure(args.model, args.rounds, options)
    result |= surroundings(["python", "tools/bench_build.py", *sys.argv[1:]])
    print(json.dumps({"medians": result["medians"], "sizes": result["sizes"]}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
