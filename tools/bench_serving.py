"""Measure what the documentation states, in turns on one machine, and write the samples as JSON.

    python tools/bench_serving.py speed --json docs/figures/serving.json       ours, the raw loop, transformers serve
    python tools/bench_serving.py overhead --json docs/figures/overhead.json   CPU per streamed token of the server
    python tools/bench_serving.py engine --json docs/figures/engine.json       our server on vLLM, and vLLM's offline engine

`openllm bench` is the general tool and does the work; this adds the raw loop of stock transformers (bench_raw.py) and a
server that does nothing but write (bench_bare.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from openllm.bench import subjects
from openllm.bench.endpoint import RequestShape
from openllm.bench.load import Level
from openllm.bench.rounds import Plan, in_turns, measure_subject
from openllm.bench.subjects import Subject
from openllm.bench.surroundings import surroundings

TOOLS = Path(__file__).parent
SHORT_TOKENS = 16
STEP_S = 0.02


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr)


# -- speed ------------------------------------------------------------------------------------------------------------


def raw_loop(model_dir: str, concurrencies: list[int], max_tokens: int, dtypes: list[str]) -> dict[str, Any]:
    """The raw loop of stock transformers over the same prompts, in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [
            sys.executable,
            str(TOOLS / "bench_raw.py"),
            "--model",
            model_dir,
            "--only",
            "raw",
            "--rounds",
            "1",  # the turns with the servers are the rounds
            "--json",
            out.name,
        ]
        command += ["--max-tokens", str(max_tokens), "--sequences", *map(str, concurrencies)]
        command += ["--dtype", *dtypes]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        found = json.loads(Path(out.name).read_bytes())
    return {"levels": [{"key": str(load["concurrency"]), **load} for load in found.pop("loads")], **found}


def default_model() -> str:
    """Folder of the default model in the store, imported if need be."""
    from openllm.serialisation import resolve
    from openllm_core.options import StoreOptions
    from openllm_core.settings import read

    return str(resolve(None, options=read(StoreOptions).options).path)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of ours, the raw loop and the peer: all streams of a level start together, each with its own prompt."""
    model = args.model or default_model()
    levels = [Level(concurrency=streams, requests=streams) for streams in args.concurrency]
    plan = Plan(shape=RequestShape(output_tokens=args.max_tokens), levels=levels)
    started: dict[str, Callable[[], Subject]] = {
        "openllm": lambda: subjects.ours(model, "--backend", "pt"),
        "transformers": lambda: subjects.peer(
            "transformers", model, "--dtype", args.peer_dtype[-1], output_tokens=args.max_tokens
        ),
    }
    measures = {
        name: partial(measure_subject, make(), plan, say) for name, make in started.items() if name in args.subjects
    }
    if "raw" in args.subjects:
        measures["raw"] = partial(raw_loop, model, args.concurrency, args.max_tokens, args.peer_dtype)
    return in_turns({name: measures[name] for name in args.subjects}, args.rounds, say)


# -- engine -----------------------------------------------------------------------------------------------------------


def engine(args: argparse.Namespace) -> dict[str, Any]:
    """Rounds of our server on the vllm backend and of vLLM's offline engine with the same settings; needs vLLM here."""
    model = args.model or default_model()
    levels = [Level(concurrency=streams, requests=streams) for streams in args.concurrency]
    plan = Plan(shape=RequestShape(output_tokens=args.max_tokens), levels=levels)
    flags = [word for pair in args.engine_arg for word in ("--engine-arg", pair)]
    ours = subjects.ours(model, "--backend", "vllm", *flags)
    measures = {"openllm": partial(measure_subject, ours, plan, say), "offline": partial(offline, model, args)}
    return in_turns(measures, args.rounds, say)


def offline(model: str, args: argparse.Namespace) -> dict[str, Any]:
    """vLLM's offline engine over the same prompts, in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [sys.executable, str(TOOLS / "bench_offline.py"), "--model", model, "--json", out.name]
        command += ["--max-tokens", str(args.max_tokens), "--concurrency", *map(str, args.concurrency)]
        command += ["--engine-arg", *args.engine_arg]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(out.name).read_bytes())


# -- overhead ---------------------------------------------------------------------------------------------------------


def overhead(args: argparse.Namespace) -> dict[str, Any]:
    """CPU of the server process with the echo backend, beside a server that does nothing but write.

    Short and long answers tell what a request costs once from what each of its tokens costs.
    """
    flags = ("--engine-arg", f"max_num_seqs={args.streams}", "--engine-arg", f"step_s={STEP_S}")
    bare = Subject(
        name="bare",
        command=[sys.executable, str(TOOLS / "bench_bare.py"), "{port}", str(STEP_S)],
        ready_path="/",
        model="echo",
    )
    measures = {s.name: partial(_overhead_of, s, args.streams, args.max_tokens) for s in (subjects.echo(*flags), bare)}
    found = in_turns(measures, args.rounds, say)
    return {"streams": args.streams, "tokens_per_request": args.max_tokens, **found}


def _overhead_of(subject: Subject, streams: int, max_tokens: int) -> dict[str, Any]:
    """One run: answers of `SHORT_TOKENS` and of `max_tokens`, each from a fresh server."""
    cost: dict[int, float] = {}  # CPU per request, in microseconds, by its tokens
    memory = 0.0
    for tokens, requests in ((SHORT_TOKENS, 4 * streams), (max_tokens, 2 * streams)):
        shape = RequestShape(output_tokens=tokens)
        plan = Plan(shape=shape, levels=[Level(concurrency=streams, requests=requests)], warmup=streams)
        level = measure_subject(subject, plan, say)["levels"][0]
        if level["failed"] or level["tokens"] != tokens * requests:
            raise RuntimeError(f"{subject.name}: {level['failed']} failed, {level['tokens']} tokens: {level['errors']}")
        cost[tokens] = level["server_cpu"]["server_us_per_token"] * tokens
        memory = level["server_cpu"]["server_memory_bytes"]
    further = (cost[max_tokens] - cost[SHORT_TOKENS]) / (max_tokens - SHORT_TOKENS)
    return {
        "cpu_us_per_token": cost[max_tokens] / max_tokens,
        "cpu_us_per_further_token": further,
        "cpu_us_per_request": cost[SHORT_TOKENS] - SHORT_TOKENS * further,
        "server_memory_bytes": memory,
        "levels": [],
    }


def main() -> None:
    """Parse the command line, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed", help="tokens/s and time to first token against peers")
    fast.add_argument("--model", help="folder of the model; default: the default model, imported if need be")
    fast.add_argument("--concurrency", type=int, nargs="+", default=[1, 32])
    fast.add_argument("--subjects", nargs="+", default=["openllm", "raw", "transformers"])
    fast.add_argument(
        "--peer-dtype",
        nargs="+",
        default=["bfloat16", "float32"],
        help="types the raw loop tries (its best counts); the last is the peer server's",
    )
    cost = commands.add_parser("overhead", help="CPU per streamed token of the server process")
    cost.add_argument("--streams", type=int, default=64)
    inner = commands.add_parser("engine", help="our server on vLLM beside vLLM's offline engine")
    inner.add_argument("--model", help="folder of the model; default: the default model, imported if need be")
    inner.add_argument("--concurrency", type=int, nargs="+", default=[32, 100])
    inner.add_argument("--engine-arg", nargs="*", default=[], metavar="KEY=VALUE", help="for both")
    for command in (fast, cost, inner):
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--max-tokens", type=int, default=128)
        command.add_argument("--json", type=Path, help="where the samples go")
    args = parser.parse_args()
    around = surroundings(["python", "tools/bench_serving.py", *sys.argv[1:]])
    result = {"speed": speed, "overhead": overhead, "engine": engine}[args.command](args) | around
    print(json.dumps(result["medians"], indent=2))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
