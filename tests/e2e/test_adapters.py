"""Adapters in real processes, on both backends: each forces a token, so an answer tells who gave it.

Clients choose among them and the base, or leave the choice to the default, while others switch that, reload and unload; not one
answer may come from another adapter than the one that was asked for or that it names. On a tiny model, which answers
often; with OPENLLM_TEST_ADAPTERS_S on the default one, for so many seconds (`hatch run full`: 60).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.tiny_adapters import blank_adapter, forcing_adapter
from tests.tiny_models import tiny_checkpoint
from tokenizers import Tokenizer

from openllm.serialisation.adapters import AdapterStore
from openllm_core.options import StoreOptions

from .conftest import ServerProcess, openllm_start

pytestmark = pytest.mark.timeout(420)

LONG = os.environ.get("OPENLLM_TEST_ADAPTERS_S", "")
SECONDS = float(LONG or 4)
CLIENTS = 64
FORCED = {"alpha": 40, "beta": 50, "gamma": 60}  # of either vocabulary, each a character by itself
RELOADED = 70  # what gamma forces in every second version
STEADY = ("alpha", "beta")
DEFAULTS = ("default: base", "default: alpha", "default: beta")
WANTED, WANTED_TIMES = (
    ("base", *FORCED, *DEFAULTS, "load", "switched"),
    4,
)  # what must have happened, how often at least
WAYS = 5
STREAM, BY_MODEL, BY_NAME, CHAT, GENERATE = range(WAYS)
"""/v1/generate_stream; /v1/completions by `model` and by `adapter_name`; /v1/chat/completions; /v1/generate."""
UNNAMED = ""
"""No `adapter_name`: whoever is the default answers, and says so."""
PROMPTS = ("The capital of France is", "One, two, three,", "Once upon a time there was a", "def main():")


@pytest.fixture(scope="module")
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the store: an empty one, or that of the default model."""
    if LONG:
        return request.getfixturevalue("store")
    folder = tmp_path_factory.mktemp("store")
    return {"BENTOML_HOME": str(folder), "OPENLLM_HOME": str(folder / "openllm-cache"), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def model(home: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the model that the adapters are for."""
    if LONG:
        return next(Path(home["BENTOML_HOME"]).glob("models/pt-*smollm2*/*/model.safetensors")).parent
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("tiny"), wide=True)


@pytest.fixture(scope="module")
def adapters(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of the model, by name; `gamma-2` is another version of gamma."""
    folder = tmp_path_factory.mktemp("adapters")
    tokens = FORCED | {"gamma-2": RELOADED}
    return {name: forcing_adapter(model, token, folder / name) for name, token in tokens.items()}


@pytest.fixture(scope="module", params=["pt", "vllm"])
def server(
    request: pytest.FixtureRequest,
    home: dict[str, str],
    model: Path,
    adapters: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ServerProcess]:
    """`openllm start` with two adapters given and one stored, which is loaded on request."""
    shelf = AdapterStore(StoreOptions(home=home["BENTOML_HOME"]))
    shelf.add("gamma", adapters["gamma"], "gamma")
    given = [word for name in STEADY for word in ("--adapter-id", f"{adapters[name]}:{name}")]
    arguments = [*given, "--max-adapters", "3", "--max-adapter-rank", "8", "--allow-adapter-load", "--max-queue", "256"]
    arguments += ["--max-model-len", "512", "--dtype", "float32", "--served-model-name", "smol"]
    python = sys.executable
    if request.param == "vllm":
        python = request.getfixturevalue("vllm_python")
        arguments += ["--backend", "vllm", "--startup", "fast", "--max-num-seqs", "32"]
    else:
        arguments += ["--backend", "pt", "--max-num-seqs", "32"]
    log = tmp_path_factory.mktemp(f"adapters-{request.param}") / "log.txt"
    with openllm_start(log, str(model), *arguments, environ=home, python=python) as running:
        yield running


def tokens_of(server: ServerProcess, name: str) -> list[int]:
    """Four tokens of an adapter's answer."""
    body = {"prompt": PROMPTS[0], "adapter_name": name, "llm_config": {"max_new_tokens": 4, "temperature": 0.0}}
    lines = httpx.post(server.url + "/v1/generate_stream", json=body, timeout=120).text.split("\n\n")
    return [i for line in lines if line.startswith("data: {") for i in json.loads(line[6:])["token_ids"]]


def load(server: ServerProcess, name: str, verb: str = "load") -> httpx.Response:
    """Load or unload an adapter."""
    return httpx.post(f"{server.url}/v1/adapters/{verb}", json={"adapter_name": name}, timeout=120)


async def ask(http: httpx.AsyncClient, name: str | None, prompt: str, way: int) -> tuple[list[Any], int, str]:
    """One answer's tokens (ids, or texts on OpenAI's routes), the status, and the adapter that says it gave it; in one of WAYS ways."""
    if way in (STREAM, GENERATE):
        return await ask_for_ids(http, name, prompt, stream=way == STREAM)
    body: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    body |= {"model": "smol", "adapter_name": name or "base"} if way == BY_NAME else {"model": name or "smol"}
    if way == CHAT:
        body |= {"messages": [{"role": "user", "content": prompt}], "logprobs": True}
        answer = await http.post("/v1/chat/completions", json=body)
    else:
        body |= {"prompt": prompt, "logprobs": 0}
        answer = await http.post("/v1/completions", json=body)
    found = answer.json()
    if answer.status_code != 200:
        return [], answer.status_code, ""
    logprobs = found["choices"][0]["logprobs"]
    said = [token["token"] for token in logprobs["content"]] if way == CHAT else logprobs["tokens"]
    return said, 200, found["model"] if found["model"] != "smol" else ""


async def ask_for_ids(
    http: httpx.AsyncClient, name: str | None, prompt: str, *, stream: bool
) -> tuple[list[Any], int, str]:
    """The same, by one of the two routes that leave the choice to the default where it is UNNAMED."""
    sampling = {"max_new_tokens": 6, "temperature": 0.0, "ignore_eos": True, "logprobs": 0}
    body: dict[str, Any] = {"prompt": prompt, "llm_config": sampling, "detail": True}
    if name != UNNAMED:
        body["adapter_name"] = name or "base"
    if stream:
        async with http.stream("POST", "/v1/generate_stream", json=body) as answer:
            lines = [line[6:] async for line in answer.aiter_lines() if line.startswith("data: {")]
            ids = [i for line in lines for i in json.loads(line).get("token_ids", [])]
    else:
        answer = await http.post("/v1/generate", json=body)
        found = answer.json()["details"]["logprobs"][0] if answer.status_code == 200 else []
        ids = [token["token_id"] for token in found]
    return ids, answer.status_code, answer.headers.get("x-openllm-adapter", "")


async def hammer(
    server: ServerProcess, shelf: AdapterStore, adapters: dict[str, Path], texts: dict[int, str]
) -> tuple[Counter[str], list[str]]:
    """Ask, switch and reload for SECONDS; what was answered by whom, and every answer that was wrong."""
    tally: Counter[str] = Counter()
    wrong: list[str] = []
    limits = httpx.Limits(max_connections=CLIENTS + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
        plain = {(p, way): (await ask(http, None, p, way))[0] for p in PROMPTS for way in range(WAYS)}
        absent, absences = False, 0  # whether gamma may be missing now, and how often it has been

        end = time.monotonic() + SECONDS
        unloading_from = end - SECONDS / 2  # until then gamma is served throughout

        def going() -> bool:  # a busy machine gets longer
            now = time.monotonic()
            return now < end or (now < end + 120 and min(tally[name] for name in WANTED) < WANTED_TIMES)

        async def client(number: int) -> None:
            rng = random.Random(number)
            while going():
                prompt, way = rng.choice(PROMPTS), rng.randrange(WAYS)
                name = rng.choice([None, *FORCED, *([UNNAMED] * 3 if way in (STREAM, GENERATE) else [])])
                before = (absent, absences)
                ids, status, by = await ask(http, name, prompt, way)
                if status == 404 and name == "gamma" and before != (False, absences):
                    tally["unloaded"] += 1
                    continue
                if name == UNNAMED and by in ("", *STEADY):
                    name = by or None
                    tally[f"default: {name or 'base'}"] += 1
                if status != 200 or by != (name or ""):
                    wrong.append(f"{name} by way {way}: {status}, by {by!r}")
                    continue
                tally[name or "base"] += 1
                allowed = {RELOADED, FORCED["gamma"]} if name == "gamma" else {FORCED[name]} if name else set()
                if name is None:
                    good = ids[:1] == plain[prompt, way][:1]
                elif way in (STREAM, GENERATE):
                    good = len(ids) == 6 and len(set(ids)) == 1 and ids[0] in allowed
                else:
                    good = len(ids) == 6 and len(set(ids)) == 1 and ids[0] in {texts[token] for token in allowed}
                if not good:
                    wrong.append(f"{name} by way {way}: {ids}")

        async def switcher(number: int) -> None:
            rng = random.Random(1000 + number)
            while going():
                name = rng.choice([*STEADY, "base"])
                answer = await http.post("/v1/adapters", json={"adapter_name": name})
                tally["switched"] += answer.status_code == 200
                await asyncio.sleep(0.02)

        async def reloader() -> None:
            nonlocal absent, absences
            version = 0
            while going():
                version += 1
                shelf.add("gamma", adapters["gamma-2" if version % 2 else "gamma"], "gamma")
                unloads = version % 3 == 0 and time.monotonic() > unloading_from
                for verb in ("load", "unload", "load") if unloads else ("load",):
                    if verb == "unload":
                        absent, absences = True, absences + 1
                    answer = await http.post(f"/v1/adapters/{verb}", json={"adapter_name": "gamma"})
                    tally[verb] += 1
                    if answer.status_code != 200:
                        wrong.append(f"{verb}: {answer.text[:200]}")
                    absent = verb == "unload"
                await asyncio.sleep(0.1)

        await asyncio.gather(*(client(n) for n in range(CLIENTS)), *(switcher(n) for n in range(8)), reloader())
    return tally, wrong


def test_no_answer_by_the_wrong_adapter(
    server: ServerProcess, home: dict[str, str], model: Path, adapters: dict[str, Path]
) -> None:
    """64 clients in five ways, 8 that switch the default, one that reloads and unloads: no answer by another adapter."""
    shelf = AdapterStore(StoreOptions(home=home["BENTOML_HOME"]))
    assert load(server, "gamma").status_code == 200
    tokenizer: Any = Tokenizer.from_file(str(model / "tokenizer.json"))
    texts = {token: tokenizer.decode([token]) for token in (*FORCED.values(), RELOADED)}
    tally, wrong = asyncio.run(hammer(server, shelf, adapters, texts))
    print(
        f"\n{sum(tally[name] for name in ('base', *FORCED))} answers, {len(wrong)} wrong: {dict(sorted(tally.items()))}"
    )
    assert wrong == [], (wrong[:5], tally)
    assert min(tally[name] for name in WANTED) >= WANTED_TIMES, tally


@pytest.mark.parametrize("server", ["pt"], indirect=True)
def test_a_new_host_has_the_adapters_again(server: ServerProcess) -> None:
    """The engine's process is killed: after its restart the adapters answer as before."""
    os.kill(server.host_pid(), signal.SIGKILL)
    server.wait_for(503)
    server.wait_for(200, within_s=240)
    cards = httpx.get(server.url + "/v1/adapters", timeout=120).json()["adapters"]
    assert {card["name"]: card["state"] for card in cards}.items() >= {"alpha": "ready", "beta": "ready"}.items()
    assert tokens_of(server, "beta") == [FORCED["beta"]] * 4


def test_the_command_line_changes_a_running_server(
    server: ServerProcess, home: dict[str, str], adapters: dict[str, Path], tmp_path: Path
) -> None:
    """`adapters add --endpoint` serves at once, `ls` shows it, `rm` takes it away; a bad one is refused with its reason.

    One of another base under the name of a good one changes neither what is served nor what the next start would.
    """
    load(server, "gamma", "unload")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "openllm", "adapters", *words]
        return subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=120, check=False)

    added = run("add", f"{adapters['gamma']}:delta", "--endpoint", server.url)
    assert added.returncode == 0, added.stderr
    assert "delta" in [card["id"] for card in httpx.get(server.url + "/v1/models", timeout=120).json()["data"]]
    listed = json.loads(run("ls", "--endpoint", server.url, "-o", "json").stdout)
    assert {row["name"]: row["state"] for row in listed}["delta"] == "ready"
    shelf = AdapterStore(StoreOptions(home=home["BENTOML_HOME"]))
    good = shelf.get("delta")
    for attempt in range(2):
        bad = blank_adapter(tmp_path / f"bad{attempt}", lora_alpha=attempt + 1)
        refused = run("add", f"{bad}:delta", "--endpoint", server.url)
        assert refused.returncode == 1 and "another model" in refused.stderr, refused.stderr
        assert shelf.get("delta") == good
    assert tokens_of(server, "delta") == [FORCED["gamma"]] * 4
    assert run("rm", "delta", "--endpoint", server.url).returncode == 0
    assert "delta" not in [card["id"] for card in httpx.get(server.url + "/v1/models", timeout=120).json()["data"]]
    assert run("add", str(adapters["gamma"].parent)).returncode == 65
