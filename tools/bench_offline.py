"""Tokens per second of vLLM's offline engine (`LLM.generate`) with the settings our vllm backend chooses for a model.

    python tools/bench_offline.py --model FOLDER --concurrency 32 100 --json FILE [--engine-arg KEY=VALUE]

Started by `bench_serving.py engine` in turns with our server, so that what the way through HTTP costs can be told. Needs
an environment with both. Starts itself once more, with the variables that our engine host would get.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from openllm.bench.prompts import PROMPTS
from openllm_core.options import EngineOptions


def measure(options: EngineOptions, concurrency: list[int], max_tokens: int) -> dict[str, Any]:
    """Load the engine, warm it up, and generate one static batch per concurrency."""
    from vllm import LLM, SamplingParams

    from openllm.backends import checkpoint
    from openllm.backends.vllm import arguments, plan
    from openllm_core.resources import detect

    begun = time.perf_counter()
    folder = options.model_path or ""
    made = plan.make(options, checkpoint.read(folder), detect.machine())
    chosen = arguments.engine_arguments(options, made)
    names = ("model", "tokenizer", "dtype", "max_model_len", "max_num_seqs", "tensor_parallel_size", "enforce_eager")
    names += ("enable_prefix_caching", "load_format", "gpu_memory_utilization", "kv_cache_memory_bytes", "seed")
    engine = LLM(**{name: getattr(chosen, name) for name in names})
    ready_s = time.perf_counter() - begun
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    chats = [[{"role": "user", "content": PROMPTS[i % len(PROMPTS)]}] for i in range(max(concurrency))]
    engine.chat(chats[:4], SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True), use_tqdm=False)
    levels: list[dict[str, Any]] = []
    for streams in concurrency:
        started = time.perf_counter()
        answers = engine.chat(chats[:streams], sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
        levels.append({"key": str(streams), "tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds})
    return {"ready_s": ready_s, "levels": levels}


def main() -> int:
    """Parse, start again with the right variables, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[32])
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--engine-arg", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in args.engine_arg)
    options = EngineOptions(backend="vllm", model_path=args.model, engine_arg=given)
    if not args.measure:
        from openllm.backends.vllm import launch

        environ = {**os.environ, **launch.environment(options)}
        return subprocess.run([sys.executable, *sys.argv, "--measure"], env=environ, check=False).returncode
    found = measure(options, args.concurrency, args.max_tokens)
    args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
