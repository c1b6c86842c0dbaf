#!/usr/bin/env python3
"""What holding answers to a JSON schema costs a step of a batch on the `pt` backend: the masks are made between its steps.

    python tools/bench_masks.py [--rows N] [--steps N] [--rounds N] [--json FILE]

The default model decodes batches of `--rows` sequences of which none, one, a quarter and all carry a schema. What is counted is
the processor's time of one thread for a decode step, which other work on the machine changes little: the shortest of the rounds'
medians over `--steps`, the kinds in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from openllm.backends import checkpoint as checkpoints
from openllm.backends.base import BackendRequest, TokenGuide, TokenSampling
from openllm.backends.torch import loading, tuning
from openllm.backends.torch.backend import describe, grammars_of
from openllm.backends.torch.guiding import Grammars
from openllm.backends.torch.scheduler import Scheduler
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.settings import read

ITEM = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 3}, "price": {"type": "integer"}},
    "required": ["name", "price"],
}
SCHEMA = {  # longer than any answer here
    "type": "object",
    "properties": {"things": {"type": "array", "minItems": 100, "items": ITEM}},
    "required": ["things"],
}


def load(folder: Path, rows: int) -> tuple[Scheduler, Grammars]:
    """The model on one thread, and what compiles guides for it."""
    options = EngineOptions(model_path=str(folder), device="cpu", threads=1, max_num_seqs=rows, max_model_len=512)
    checkpoint, device = checkpoints.read(folder), torch.device("cpu")
    choice = tuning.choose(options, checkpoint, device, lambda text, share: None)
    torch.set_num_threads(1)
    model = loading.load(options, checkpoint, choice, device, lambda text, share: None)
    choice = tuning.confirm(options, checkpoint, choice, model)
    grammars = grammars_of(model, options, checkpoint)
    assert grammars is not None
    return Scheduler(model, describe(model, options, checkpoint, choice)[0]), grammars


def step_seconds(scheduler: Scheduler, grammars: Grammars, rows: int, held: int, steps: int) -> list[float]:
    """Processor time of each step in which all rows decode; the first `held` of them carry the schema."""
    guide = TokenGuide("json", json.dumps(SCHEMA), "guided_json")
    sampling = TokenSampling(max_tokens=steps + 8, temperature=0.0)
    for number in range(rows):
        request = BackendRequest(f"{held}-{number}", [10 + number, 20, 30, 40], sampling)
        refused = scheduler.add(request, grammars.matcher(guide, ()) if number < held else None)
        assert refused is None
    found: list[float] = []
    while not scheduler.idle:
        began = time.thread_time()
        made = scheduler.step()
        took = time.thread_time() - began
        if len(made.deltas) == rows:
            found.append(took)
    return found[2 : steps + 2]  # the first ones compute the prompts


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    options: StoreOptions = read(StoreOptions).options
    os.environ["BENTOML_HOME"] = options.home
    scheduler, grammars = load(resolve(None, options=options).path, args.rows)
    kinds = {"none": 0, "one": 1, "quarter": args.rows // 4, "all": args.rows}
    samples: dict[str, list[list[float]]] = {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        for kind, held in kinds.items():
            samples[kind].append(step_seconds(scheduler, grammars, args.rows, held, args.steps))
            print(f"{kind}: {1000 * statistics.median(samples[kind][-1]):.1f} ms", file=sys.stderr)
    shortest = {kind: min(map(statistics.median, found)) for kind, found in samples.items()}
    shape = {"rows": args.rows, "steps": args.steps, "rounds": args.rounds}
    result: dict[str, Any] = {"step_s": shortest, "samples": samples, **shape}
    result |= surroundings(["python", "tools/bench_masks.py", *sys.argv[1:]])
    print(json.dumps(shortest, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
