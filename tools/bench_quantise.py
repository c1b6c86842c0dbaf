#!/usr/bin/env python3
"""A model in each quantised scheme that the pt backend runs on this machine: size, memory, speed, and what quality it costs.

    python tools/bench_quantise.py [MODEL] [--gptq FOLDER] [--awq FOLDER] [--rounds N] [--json FILE]

MODEL is a folder or id, by default the default model. GPTQ needs a checkpoint, made by `openllm quantize`, and gptqmodel.
AWQ needs one too: gptqmodel makes it on a GPU alone, `tests/full/awq.py` writes its layout without AWQ's scaling anywhere.
Each scheme runs in engine hosts of its own, in turns; figures are medians of the rounds:

- on disk: bytes of the weight files that are read;
- memory: resident bytes of the engine host after it answered (Python and torch included);
- tokens/s: greedy, 32 tokens for 1 prompt, and for 8 together;
- perplexity: of `tools/texts/perplexity.txt`, teacher-forced in one pass, with the weights as the backend loads them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from openllm import LLM
from openllm.backends import checkpoint as checkpoints
from openllm.bench.surroundings import surroundings
from openllm.serialisation import resolve
from openllm_core.options import StoreOptions
from openllm_core.settings import read

TEXT = Path(__file__).parent / "texts" / "perplexity.txt"
TOKENS = 32
TOGETHER = 8
SCHEMES: dict[str, dict[str, Any]] = {
    "default": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "int4": {"quantize": "int4"},
}


def host_bytes() -> int:
    """Resident bytes of this process's engine host, the largest of its children."""
    return max(child.memory_info().rss for child in psutil.Process().children(recursive=True))


def serve(folder: Path, options: dict[str, Any]) -> dict[str, float]:
    """Tokens per second of one and of several prompts, and the host's memory, from a host of its own."""
    prompts = [f"The {n}th thing that everyone should know about the sea is" for n in range(TOGETHER)]
    with LLM(str(folder), backend="pt", device="cpu", **options) as llm:
        llm.generate(prompts, max_tokens=4)  # warms up
        speed: dict[str, float] = {}
        for name, batch in (("tokens_per_s", prompts[:1]), ("tokens_per_s_together", prompts)):
            begun = time.perf_counter()
            made = llm.generate(batch, max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
            speed[name] = sum(one.usage.completion_tokens for one in made) / (time.perf_counter() - begun)
        return {**speed, "memory_bytes": float(host_bytes())}


def perplexity(folder: Path, options: dict[str, Any]) -> float:
    """exp of the mean negative log-likelihood of the text's tokens, each given all before it."""
    import torch

    from openllm.backends.torch import loading, tuning
    from openllm.tokenizer import Tokenizer
    from openllm_core.options import EngineOptions

    settings = EngineOptions(model_path=str(folder), device="cpu", **options)
    checkpoint, device = checkpoints.read(folder), torch.device("cpu")
    choice = tuning.choose(settings, checkpoint, device, lambda text, share: None)
    model = loading.load(settings, checkpoint, choice, device, lambda text, share: None)
    ids = Tokenizer.from_folder(folder).encode(TEXT.read_text(encoding="utf-8"))
    with torch.inference_mode():
        logits = model.whole(ids[:1], ids[1:])[:-1]
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]))
    return math.exp(float(loss))


def in_child(task: str, folder: Path, options: dict[str, Any]) -> Any:
    """One measurement in a process of its own, so that nothing of another scheme is left in memory."""
    order = json.dumps({"task": task, "folder": str(folder), "options": options})
    done = subprocess.run([sys.executable, __file__, "--order", order], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def weight_bytes(folder: Path) -> int:
    """Bytes of the weight files."""
    return sum(file.stat().st_size for file in checkpoints.read(folder).files)


def measure(folder: Path, made: dict[str, Path | None], rounds: int) -> dict[str, Any]:
    """All schemes, in turns.

    Args:
        made: checkpoints of the same model, by their scheme.
    """
    subjects = {name: (folder, options) for name, options in SCHEMES.items()}
    subjects |= {name: (place, {}) for name, place in made.items() if place is not None}
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, (place, options) in subjects.items():
            samples[name].append(in_child("serve", place, options))
            print(name, samples[name][-1], file=sys.stderr, flush=True)
    schemes = {
        name: {
            "disk_bytes": weight_bytes(place),
            "perplexity": in_child("perplexity", place, options),
            **{key: statistics.median(sample[key] for sample in samples[name]) for key in samples[name][0]},
        }
        for name, (place, options) in subjects.items()
    }
    return {"model": folder.name, "tokens": TOKENS, "together": TOGETHER, "schemes": schemes, "samples": samples}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--gptq", type=Path, help="folder of a GPTQ checkpoint of the same model")
    parser.add_argument("--awq", type=Path, help="the same of AWQ")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the samples go")
    parser.add_argument("--order", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.order:
        order = json.loads(args.order)
        run = serve if order["task"] == "serve" else perplexity
        print(json.dumps(run(Path(order["folder"]), order["options"])))
        return
    options: StoreOptions = read(StoreOptions).options
    folder = resolve(args.model, options=options).path
    result = measure(folder, {"gptq": args.gptq, "awq": args.awq}, args.rounds) | surroundings(
        ["python", "tools/bench_quantise.py", *sys.argv[1:]]
    )
    print(json.dumps(result["schemes"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
