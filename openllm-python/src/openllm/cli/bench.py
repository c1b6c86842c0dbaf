"""`openllm bench [URL]`: a load test of any OpenAI-shaped endpoint, of a model here, or of it and a peer's server in turns.

Reads the command line, calls `openllm.bench`, prints tables. Knows nothing of HTTP or processes.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openllm.cli.command import Command, GroupedOption, Session
from openllm.cli.output import Output, output_option, paint

if TYPE_CHECKING:
    from openllm.bench.compare import Change
    from openllm.bench.load import Level
    from openllm.bench.rounds import Plan
    from openllm.bench.subjects import Subject

F = TypeVar("F", bound=Callable[..., Any])

EXIT_WORSE = 1
EXIT_NONE_ANSWERED = 1
EXIT_TERMINATED = 143
MIN_REQUESTS = 4
LATE_S = 0.1  # seconds; later, and an open loop is no longer one
LOAD, REQUESTS, SERVERS, JUDGING = "Load", "Requests", "Servers", "Judging"
POSITIVE = click.FloatRange(min=0, min_open=True)
COUNT = click.IntRange(min=1)

OPTIONS: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    (LOAD, ("--concurrency",), {"metavar": "N[,N…]", "help": "Requests under way at any time.  [default: 1,8,32; large --shape: 100]"}),
    (LOAD, ("--rate",), {"metavar": "R[,R…]", "help": "Open loop: requests a second, at random intervals."}),
    (LOAD, ("--num-prompts",), {"metavar": "N", "type": COUNT, "help": "Requests per level.  [default: 2 per stream, at least 4]"}),
    (LOAD, ("--duration",), {"type": POSITIVE, "metavar": "SECONDS", "help": "Send for so long instead."}),
    (LOAD, ("--warmup",), {"metavar": "N", "type": click.IntRange(min=0), "default": 4, "help": "Short requests sent first."}),
    (LOAD, ("--rounds",), {"metavar": "N", "type": COUNT, "help": "How often all is measured; medians count.  [default: 1; in turns: 3]"}),
    (LOAD, ("--seed",), {"metavar": "N", "type": int, "default": 0, "help": "Of prompts and intervals."}),
    (REQUESTS, ("--model",), {"metavar": "NAME", "default": "", "help": "Served model.  [default: the server's first]"}),
    (REQUESTS, ("--route",), {"type": click.Choice(["chat", "completions"]), "default": "chat", "help": "What is asked."}),
    (REQUESTS, ("--input-tokens",), {"metavar": "N", "type": COUNT, "help": "Length of prompts.  [default: short questions]"}),
    (REQUESTS, ("--output-tokens",), {"metavar": "N", "type": COUNT, "default": 128, "help": "Length of answers."}),
    (REQUESTS, ("--ignore-eos/--no-ignore-eos",), {"default": True, "help": "Go on past the end token, where understood."}),
    (REQUESTS, ("--temperature",), {"metavar": "T", "type": click.FloatRange(min=0), "default": 0.0, "help": "0 is greedy."}),
    (REQUESTS, ("--field",), {"multiple": True, "metavar": "KEY=JSON", "help": "Further field of each request."}),
    (REQUESTS, ("--header",), {"multiple": True, "metavar": "NAME=VALUE", "help": "Further header of each request."}),
    (REQUESTS, ("--timeout",), {"type": POSITIVE, "default": 600.0, "metavar": "SECONDS", "help": "Of a whole request."}),
    (SERVERS, ("--serve",), {"metavar": "MODEL", "help": "Start our server with this model and measure it."}),
    (SERVERS, ("--serve-arg",), {"multiple": True, "metavar": "WORD", "help": "Word for its command line."}),
    (
        SERVERS,
        ("--baseline",),
        {
            "type": click.Choice(["vllm", "transformers", "none"]),
            "help": "Measure this peer's own server in turns with ours.  [default: none; large --shape: vllm where it is]",
        },
    ),
    (SERVERS, ("--peer-python",), {"metavar": "PATH", "default": sys.executable, "help": "Python that has the peer."}),
    (SERVERS, ("--peer-arg",), {"multiple": True, "metavar": "WORD", "help": "Word for the peer's command line."}),
    (
        SERVERS,
        ("--tuned-env",),
        {"multiple": True, "metavar": "NAME=VALUE", "help": "Measure the peer once more, with these variables."},
    ),
    (SERVERS, ("--shape",), {"metavar": "NAME", "help": "Random weights of this shape instead of a model."}),
    (SERVERS, ("--pid",), {"metavar": "PID", "type": COUNT, "help": "Process whose CPU is read.  [default: who listens here]"}),
    (JUDGING, ("--slo",), {"metavar": "NAME=S[,…]", "default": "", "help": "Latency targets: ttft=0.5,itl=0.05,total=9"}),
    (JUDGING, ("--json", "json_file"), {"type": click.Path(path_type=Path, dir_okay=False), "help": "Write the result."}),
    (
        JUDGING,
        ("--compare",),
        {"nargs": 2, "type": click.Path(path_type=Path, exists=True), "help": "Measure nothing: set two results side by side."},
    ),
    (JUDGING, ("--tolerance",), {"metavar": "SHARE", "type": POSITIVE, "default": 0.05, "help": "Share by which a figure may be worse."}),
]  # fmt: skip


def bench_options(function: F) -> F:
    """Add the options of the table above."""
    for group, declaration, facts in reversed(OPTIONS):
        shown = facts.get("default") not in (None, "", sys.executable)
        function = click.option(*declaration, cls=GroupedOption, group=group, show_default=shown, **facts)(function)
    return function


@click.command("bench", cls=Command)
@click.argument("url", required=False)
@bench_options
@output_option
@click.pass_obj
def command(session: Session, url: str | None, output: str, **given: Any) -> int:
    """Measure a server under load: time to first token, time between tokens, tokens a second.

    \b
      openllm bench localhost:3000 --concurrency 1,32
      openllm bench --serve ./my-model --json today.json
      openllm bench --baseline vllm --rounds 3
      openllm bench --shape llama-2-13b
      openllm bench --compare yesterday.json today.json

    URL is any server that speaks OpenAI's API; without it, http://localhost:3000. The key comes from OPENLLM_API_KEY.
    With --compare, a figure that got worse by more than --tolerance makes the exit code 1, as
    does a level of which no request was answered.
    """
    out = Output(output, session)
    if given["compare"]:
        return _compare(out, *given["compare"], tolerance=given["tolerance"])
    _complete(given)
    starts = given["serve"] or given["baseline"] or given["shape"]
    if starts and url:
        raise click.UsageError("URL is a server that is up already; --serve, --baseline and --shape start their own.")
    from openllm.bench.surroundings import surroundings

    plan = _plan(given, in_turns=bool(given["baseline"]))
    around = surroundings(["openllm", *_words_typed()])  # before the load, which it would see
    result = _started(given, plan, out) if starts else _existing(url, given, plan, out)
    result |= {"load": _load_as_data(plan), **around}
    if given["json_file"]:
        given["json_file"].write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if output == "json":
        out.json(result)
    else:
        _show(out, result)
    return 0 if all(level["completed"] for _, level in _levels_of(result)) else EXIT_NONE_ANSWERED


# -- what to measure --------------------------------------------------------------------------------------------------


def _complete(given: dict[str, Any]) -> None:
    """Fill in what was not said: a large shape is measured as throughput is compared, 100 requests at once in turns with vLLM."""
    from openllm.bench import shapes, subjects

    if given["shape"] and shapes.find(given["shape"]).large:
        if given["baseline"] is None and subjects.has_peer("vllm", given["peer_python"]):
            given["baseline"] = "vllm"
        if not given["rate"]:
            given["concurrency"] = given["concurrency"] or "100"
    if given["baseline"] == "none":
        given["baseline"] = None


def _plan(given: dict[str, Any], in_turns: bool) -> Plan:
    from openllm.bench.endpoint import RequestShape
    from openllm.bench.results import parse_slo
    from openllm.bench.rounds import Plan

    if given["concurrency"] and given["rate"]:
        raise click.UsageError("--concurrency and --rate exclude each other.")
    if given["num_prompts"] and given["duration"]:
        raise click.UsageError("--num-prompts and --duration exclude each other.")
    shape = RequestShape(
        route=given["route"],
        input_tokens=given["input_tokens"],
        output_tokens=given["output_tokens"],
        ignore_eos=given["ignore_eos"],
        temperature=given["temperature"],
        extra={name: _json_or_text(value) for name, value in _pairs(given["field"], "--field").items()},
        timeout_s=given["timeout"],
        seed=given["seed"],
    )
    rounds = given["rounds"] or (3 if in_turns else 1)
    levels = _levels(given)
    return Plan(shape=shape, levels=levels, warmup=given["warmup"], slo=parse_slo(given["slo"]), rounds=rounds)


def _levels(given: dict[str, Any]) -> list[Level]:
    from openllm.bench.load import Level

    requests, duration = given["num_prompts"], given["duration"]

    def enough(streams: float) -> int | None:
        return None if duration else requests or max(MIN_REQUESTS, int(2 * streams))

    if given["rate"]:
        rates = _numbers(given["rate"], "--rate", float)
        return [Level(rate=rate, requests=enough(10 * rate), duration_s=duration) for rate in rates]
    streams = _numbers(given["concurrency"] or "1,8,32", "--concurrency", int)
    return [Level(concurrency=n, requests=enough(n), duration_s=duration) for n in streams]


def _numbers(text: str, flag: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        found = [kind(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < number < 1e6 for number in found):
        raise click.UsageError(f"{flag}: {text!r} is not a list of numbers above 0, as in 1,8,32.")
    return found


def _pairs(words: Sequence[str], flag: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{flag}: {word!r} is not NAME=VALUE.")
        found[name] = value
    return found


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _headers(given: dict[str, Any]) -> dict[str, str]:
    """Those typed, and the key, which a server that we start inherits."""
    headers = _pairs(given["header"], "--header")
    key = os.environ.get("OPENLLM_API_KEY", "").split(",")[0].strip()
    if key and not any(name.lower() == "authorization" for name in headers):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _existing(url: str | None, given: dict[str, Any], plan: Plan, out: Output) -> dict[str, Any]:
    """Measure a server that is up."""
    from openllm.bench import cpu
    from openllm.bench.exchange import Address
    from openllm.bench.rounds import measure_server
    from openllm_client import HTTPClient

    headers = _headers(given)
    with HTTPClient(url) as client:  # it knows what an address may look like
        address = Address(client.address.removesuffix("/v1"), headers)
    pid = given["pid"] or cpu.listener(address.host, address.port)
    return {"url": address.url} | measure_server(address, given["model"], plan, out.say, pid)


def _started(given: dict[str, Any], plan: Plan, out: Output) -> dict[str, Any]:
    """Start what is to be measured, in turns."""
    import signal
    import tempfile

    from openllm.bench.rounds import measure_subjects

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(EXIT_TERMINATED))  # else the servers would outlive us
    with tempfile.TemporaryDirectory(prefix="openllm-bench-") as scratch:
        subjects = _subjects(given, plan, Path(scratch), out)
        return measure_subjects(subjects, plan, out.say, headers=_headers(given), model=given["model"])


def _subjects(given: dict[str, Any], plan: Plan, scratch: Path, out: Output) -> list[Subject]:
    from openllm.bench import shapes, subjects
    from openllm.bench.subjects import Peer

    ours, peer = list(given["serve_arg"]), list(given["peer_arg"])
    if given["shape"]:
        dummy = given["baseline"] == "vllm"
        model = shapes.build(given["shape"], scratch, weights="none" if dummy else "random", say=out.say)
        if dummy:
            ours += ["--backend", "vllm", "--engine-arg", "load_format=dummy"]
            peer += ["--load-format", "dummy"]
    else:
        model = _folder(given["serve"], out)
    found = [subjects.ours(str(model), *ours)]
    baseline: Peer | None = given["baseline"]
    if baseline:
        facts: dict[str, Any] = {"python": given["peer_python"], "output_tokens": plan.shape.output_tokens}
        found.append(subjects.peer(baseline, str(model), *peer, **facts))
        tuned = _pairs(given["tuned_env"], "--tuned-env")
        if tuned:
            name = f"{baseline}_tuned"
            found.append(subjects.peer(baseline, str(model), *peer, **facts, environ=tuned, name=name))
    return found


def _folder(model: str | None, out: Output) -> Path:
    """The model's folder, fetched where need be: a peer knows no names of ours."""
    from openllm.cli.options import read_settings
    from openllm.serialisation import resolve

    with out.progress() as progress:
        return resolve(model, options=read_settings().store, progress=progress).path


def _load_as_data(plan: Plan) -> dict[str, Any]:
    import attrs

    return attrs.asdict(plan)


def _words_typed() -> list[str]:
    from openllm.bench.secrets import without_secrets

    return [shlex.quote(word) for word in without_secrets(sys.argv[1:])]


# -- what is shown ----------------------------------------------------------------------------------------------------


def _show(out: Output, result: dict[str, Any]) -> None:
    if out.format == "porcelain":
        for name, level, figures in _rows(result):
            out.data(f"{name} {level} {figures.get('tokens_per_s', 0):.1f}")
        return
    headers = ["Server", "Streams or rate", "tokens/s", "first p50", "p95", "inter p50", "p95", "total p50", "failed"]
    slo = any("goodput_share" in figures for _, _, figures in _rows(result))
    rows = [
        [
            name,
            level.replace("rate_", "").replace("_", ".") + (" /s" if level.startswith("rate") else ""),
            f"{figures.get('tokens_per_s', 0):.1f}",
            *(
                _ms(figures.get(key))
                for key in ("first_token_p50_s", "first_token_p95_s", "inter_token_p50_s", "inter_token_p95_s")
            ),
            _ms(figures.get("total_p50_s")),
            f"{figures.get('failed', 0):.0f}",
            *([f"{figures.get('goodput_share', 0):.0%}".replace("%", " %")] if slo else []),
        ]
        for name, level, figures in _rows(result)
    ]
    out.table([*headers, *(["within target"] if slo else [])], rows, numbers=range(1, len(headers) + slo))
    for name, _, figures in _rows(result):
        used = figures.get("server_cpu")
        if used:
            host = (
                f", engine host's main thread {used['host_main_us_per_token']:.1f} µs"
                if used["host_main_us_per_token"]
                else ""
            )
            out.say(f"{name}: CPU per token: server {used['server_us_per_token']:.1f} µs{host}", dim=True)
    _warn(out, result)


def _rows(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (subject, level, figures)
        for subject, found in result["medians"].items()
        for level, figures in found.items()
        if isinstance(figures, dict)
    ]


def _levels_of(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(subject, figures) of every level of every round."""
    return [(name, level) for done in result["rounds"] for name, run in done.items() for level in run["levels"]]


def _warn(out: Output, result: dict[str, Any]) -> None:
    """What makes a figure doubtful; each thing once."""
    told: dict[str, None] = {}
    for name, level in _levels_of(result):
        for kind, message in level["error_messages"].items():
            told[f"{name}, {level['key']}: {level['errors'][kind]} x {kind}: {message}"] = None
        if level.get("tokens_counted_by") == "pieces":
            told[f"{name}: the server counts no tokens; pieces of text were counted instead."] = None
        if level["rate"] and (level["sent_late_p99_s"] or 0) > LATE_S:
            told[f"{name}, {level['key']}: requests were sent late; this machine is too busy for the rate."] = None
    for text in told:
        out.say(text, fg="yellow")


def _ms(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _compare(out: Output, old: Path, new: Path, *, tolerance: float) -> int:
    from openllm.bench.compare import compare, load

    changes = compare(load(old), load(new), tolerance)
    worse = [change for change in changes if change.worse]
    if out.format == "json":
        import attrs

        out.json({"tolerance": tolerance, "worse": len(worse), "changes": [attrs.asdict(change) for change in changes]})
    else:
        out.table(
            ["Where", "Figure", "old", "new", "ratio", ""],
            [_compared(change) for change in changes],
            numbers=(2, 3, 4),
        )
        text = f"{len(worse)} of {len(changes)} figures got worse by more than {tolerance:.0%}.".replace("%", " %")
        out.say(paint(text, sys.stderr, fg="red" if worse else "green"))
    return EXIT_WORSE if worse else 0


def _compared(change: Change) -> list[str]:
    ratio = "–" if change.ratio is None else f"{change.ratio:.3f}"
    return [
        change.where,
        change.figure,
        f"{change.old:.4g}",
        f"{change.new:.4g}",
        ratio,
        "worse" if change.worse else "",
    ]
