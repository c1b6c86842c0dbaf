"""Measure the raw loop of stock transformers against the pt backend in process, in turns, and write the samples as JSON.

    python tools/bench_raw.py --model DIR --json docs/figures/raw.json

The raw loop is what a careful user writes by hand: prefill of all prompts at once, then greedy decode steps with a ragged
mask over a DynamicCache. It runs with each of `--attention` and `--dtype`; its best counts. One sequence is measured with
`generate`. `--only raw` runs the stock side alone, for `bench_serving.py`. Both sides run in processes of their own and
take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openllm.bench.prompts import PROMPTS


def encode_prompts(model: str, count: int) -> list[list[int]]:
    """Token ids of `count` chat prompts, made with the model's own template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    asked = [PROMPTS[i % len(PROMPTS)] for i in range(count)]
    if tokenizer.chat_template is None:
        return [list(tokenizer(p)["input_ids"]) for p in asked]
    return [
        list(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
            )["input_ids"]
        )
        for prompt in asked
    ]


def load_of(concurrency: int, tokens: int, seconds: float, firsts: list[float]) -> dict[str, Any]:
    """One sample, in the form `bench_serving.py` uses too."""
    ordered = sorted(firsts)
    return {
        "concurrency": concurrency,
        "tokens_per_s": tokens / seconds,
        "first_token_p50_s": statistics.median(ordered),
        "first_token_p95_s": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "seconds": seconds,
        "tokens": tokens,
    }


# -- stock transformers -----------------------------------------------------------------------------------------------


class Raw:
    """Stock transformers in one type; the attention implementation changes between runs."""

    def __init__(self, model: str, dtype: str, threads: int | None) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        if threads:
            torch.set_num_threads(threads)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.name = dtype

    def loop(self, prompts: list[list[int]], max_tokens: int, attention: str) -> dict[str, Any]:
        """Prefill of left-padded prompts, then greedy steps over a DynamicCache with a ragged mask."""
        torch = self.torch
        from transformers import DynamicCache

        self.model.set_attn_implementation(attention)
        started = time.perf_counter()
        longest = max(map(len, prompts))
        with torch.inference_mode():
            ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
            lengths = torch.tensor([[len(p)] for p in prompts])
            mask = (torch.arange(longest) >= longest - lengths).long()
            cache = DynamicCache(config=self.model.config)
            positions = mask.cumsum(-1).sub_(1).clamp_(min=0)
            arguments = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
            out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, **arguments)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            token.tolist()
            first = time.perf_counter() - started
            positions = positions[:, -1:] + 1
            one = torch.ones(len(prompts), 1, dtype=torch.long)
            for _ in range(max_tokens - 1):
                mask = torch.cat([mask, one], dim=1)
                out = self.model(input_ids=token, attention_mask=mask, position_ids=positions, **arguments)
                token = out.logits[:, -1].argmax(-1, keepdim=True)
                token.tolist()
                positions = positions + 1
        seconds = time.perf_counter() - started
        return load_of(len(prompts), len(prompts) * max_tokens, seconds, [first] * len(prompts))

    def generate(self, prompt: list[int], max_tokens: int, attention: str) -> dict[str, Any]:
        """`generate` for one prompt; the first token is timed as a prefill alone."""
        torch = self.torch
        self.model.set_attn_implementation(attention)
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            started = time.perf_counter()
            self.model(input_ids=ids, use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()
            first = time.perf_counter() - started
            started = time.perf_counter()
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens,
                do_sample=False,
                pad_token_id=0,
            )
            seconds = time.perf_counter() - started
        return load_of(1, max_tokens, seconds, [first])

    def run(self, prompts: list[list[int]], max_tokens: int, attention: str) -> dict[str, Any]:
        """One sample; a single prompt goes through `generate`."""
        run = (
            self.generate(prompts[0], max_tokens, attention)
            if len(prompts) == 1
            else self.loop(prompts, max_tokens, attention)
        )
        return run | {"attention": attention, "dtype": self.name}


# -- the backend ------------------------------------------------------------------------------------------------------


class Ours:
    """The pt backend in this process, driven through its contract."""

    def __init__(self, model: str, threads: int | None, engine_arg: dict[str, str]) -> None:
        from openllm.backends.torch import load
        from openllm_core.options import EngineOptions

        options = EngineOptions(model_path=model, threads=threads, engine_arg=engine_arg)
        self.backend = load(options, lambda text, share: None)
        self.steps = self.backend.steps()
        self.number = 0

    async def run(self, prompts: list[list[int]], max_tokens: int) -> dict[str, Any]:
        """All prompts at once, greedy, none stopping early."""
        from openllm.backends.base import BackendRequest, TokenSampling

        self.number += 1
        started = time.perf_counter()
        for i, prompt in enumerate(prompts):
            sampling = TokenSampling(max_tokens=max_tokens, temperature=0.0)
            self.backend.submit(BackendRequest(f"{self.number}-{i}", prompt, sampling))
        firsts: dict[str, float] = {}
        ended = tokens = 0
        async for output in self.steps:
            now = time.perf_counter() - started
            for delta in output.deltas:
                if delta.error:
                    raise RuntimeError(delta.error)
                firsts.setdefault(delta.request_id, now)
                tokens += len(delta.token_ids)
                ended += delta.finish_reason is not None
            if ended == len(prompts):
                break
        return load_of(len(prompts), tokens, time.perf_counter() - started, list(firsts.values()))


# -- turns ------------------------------------------------------------------------------------------------------------


def serve_samples(args: argparse.Namespace) -> None:
    """A measuring process: answers each JSON line of stdin (what to run) with one line (the sample)."""
    counts = {n: encode_prompts(args.model, n) for n in args.sequences}
    if args.worker == "ours":
        ours = Ours(args.model, args.threads, dict(pair.split("=", 1) for pair in args.engine_arg))
        with asyncio.Runner() as runner:
            print("ready", flush=True)
            for line in sys.stdin:
                asked = json.loads(line)
                sample = runner.run(ours.run(counts[asked["sequences"]], asked["max_tokens"]))
                print(json.dumps(sample | {"decisions": ours.backend.info.decisions}), flush=True)
    else:
        raw = Raw(args.model, args.worker, args.threads)
        print("ready", flush=True)
        for line in sys.stdin:
            asked = json.loads(line)
            print(json.dumps(raw.run(counts[asked["sequences"]], asked["max_tokens"], asked["attention"])), flush=True)


class Worker:
    """One measuring process."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--model", args.model, "--worker", name, "--sequences"]
        command += [str(n) for n in args.sequences]
        if args.threads:
            command += ["--threads", str(args.threads)]
        for pair in args.engine_arg:
            command += ["--engine-arg", pair]
        environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error"}
        if name == "ours":
            from openllm.backends.torch import launch
            from openllm_core.options import EngineOptions

            environment |= launch.environment(EngineOptions(model_path=args.model, threads=args.threads))
        self.log = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process is
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment
        )
        self._read()

    def _read(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(self.log.read().decode()[-2000:])
        return line

    def ask(self, **what: Any) -> dict[str, Any]:
        """One sample."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self._read())

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds in which every subject runs once at every concurrency; the first, short round warms up and is dropped."""
    names = [*args.dtype, *([] if args.only == "raw" else ["ours"])]
    workers = {name: Worker(name, args) for name in names}
    samples: list[dict[str, Any]] = []
    try:
        for number in range(-1, args.rounds):
            tokens = 4 if number < 0 else args.max_tokens
            for sequences in args.sequences:
                for name, worker in workers.items():
                    variants = [{}] if name == "ours" else [{"attention": a} for a in args.attention]
                    for variant in variants:
                        sample = worker.ask(sequences=sequences, max_tokens=tokens, **variant)
                        if number >= 0:
                            samples.append(sample | {"subject": "ours" if name == "ours" else "raw", "round": number})
                            print(json.dumps(samples[-1]), file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.close()
    return summary(samples, args)


def summary(samples: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Medians: the raw side's best variant at each concurrency as `loads`, ours, and the ratios between them."""
    loads: list[dict[str, Any]] = []
    ours: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for sequences in args.sequences:
        here = [s for s in samples if s["concurrency"] == sequences]
        variants: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for sample in here:
            variants.setdefault((sample.get("dtype", ""), sample.get("attention", "")), []).append(sample)
        found = {key: _median(group) for key, group in variants.items()}
        best = max((key for key in found if key != ("", "")), key=lambda key: found[key]["tokens_per_s"])
        loads.append(found[best] | {"dtype": best[0], "attention": best[1]})
        if ("", "") in found:
            ours.append(found["", ""])
            fastest_first = min(found[key]["first_token_p50_s"] for key in found if key != ("", ""))
            ratios.append(
                {
                    "concurrency": sequences,
                    "throughput": found["", ""]["tokens_per_s"] / loads[-1]["tokens_per_s"],
                    "first_token_excess_s": found["", ""]["first_token_p50_s"] - fastest_first,
                }
            )
    return {"loads": loads, "ours": ours, "ratios": ratios, "samples": samples}


def _median(group: list[dict[str, Any]]) -> dict[str, Any]:
    keys = ("concurrency", "tokens_per_s", "first_token_p50_s", "first_token_p95_s")
    return {key: statistics.median(sample[key] for sample in group) for key in keys}


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attention", nargs="+", default=["sdpa", "eager"], help="of the raw side")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"], help="of the raw side")
    parser.add_argument("--threads", type=int, help="of both sides; default: each side's own")
    parser.add_argument("--engine-arg", action="append", default=[], help="KEY=VALUE for the backend")
    parser.add_argument("--only", choices=("raw",), help="leave the backend out")
    parser.add_argument("--json", type=Path, help="where the samples go")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve_samples(args)
        return
    result = measure(args)
    result |= {
        "command": " ".join(["python", "tools/bench_raw.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in ("torch", "transformers")},
    }
    print(json.dumps({key: result[key] for key in ("loads", "ours", "ratios")}, indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
