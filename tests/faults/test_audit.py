"""No byte of a request becomes code: while every route is asked, neither server nor engine unpickles or compiles anything."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .audited import HOOK, audited
from .inject import follow
from .lab import COMPLETIONS, MODEL, Lab, body, client

pytestmark = pytest.mark.timeout(300)

TURNS = [{"role": "user", "content": "hello"}]
PICKLE = b"cposix\nsystem\n(S'touch canary'\ntR."
KINDS = ("pickle.find_class", "marshal.loads", "exec", "compile")


async def ask_all(server: Any, *, embeds: bool) -> None:
    """One request of every kind, streams and refused ones too."""
    async with client(server) as http:
        assert (await follow(http, COMPLETIONS, body(stream=True))).done
        for path, data in (
            (COMPLETIONS, body(n=2, seed=3, logprobs=2)),
            ("/v1/chat/completions", {"model": MODEL, "messages": TURNS, "max_tokens": 4}),
            ("/v1/generate", {"prompt": "hello", "llm_config": {"max_new_tokens": 4}}),
            *([("/v1/embeddings", {"model": MODEL, "input": "hello"})] if embeds else []),
        ):
            answer = await http.post(path, json=data)
            assert answer.status_code == 200, (path, answer.text)
        for path in ("/v1/models", "/v1/metadata", "/metrics", "/openapi.json", "/livez", "/readyz"):
            assert (await http.get(path)).status_code == 200, path
        assert (await http.post(COMPLETIONS, json=body(temperature=9))).status_code == 400
        for kind in ("application/vnd.bentoml+pickle", "application/x-pickle", "application/octet-stream"):
            headers = {"content-type": kind, "Payload-Container": "PickledModel", "Payload-Meta": "{}"}
            assert (await http.post(COMPLETIONS, content=PICKLE, headers=headers)).status_code == 415


@pytest.mark.parametrize("backend", ["echo", "pt"])
def test_nothing_becomes_code(lab: Lab, backend: str) -> None:
    """Not one event of unpickling, unmarshalling, compiling or running code, in any process, but what imports do."""
    with audited(lab.on(backend)) as watched:
        asyncio.run(ask_all(watched.server, embeds=backend == "echo"))
        # what is made once, of our own source: /openapi.json reads the annotations of its messages, which are text there
        assert watched.events("pickle.find_class", "marshal.loads") == []
        asyncio.run(ask_all(watched.server, embeds=backend == "echo"))
        assert watched.events(*KINDS) == []


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import pickle; pickle.loads(pickle.dumps(print))", {"pickle.find_class"}),
        ("exec(compile('1', 'planted', 'exec'))", {"compile", "exec"}),
        ("import marshal; marshal.loads(marshal.dumps(1))", {"marshal.loads"}),
        ("import json, uuid, asyncio", set[str]()),
    ],
)
def test_the_hook_sees_code(code: str, seen: set[str], tmp_path: Path) -> None:
    """Each of these is written down, wherever it happens; what an import compiles is marked as such."""
    script, file = tmp_path / "script.py", tmp_path / "events"
    script.write_text(f"def run():\n    {code}\nrun()\n", encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(HOOK), "OPENLLM_TEST_AUDIT": str(file)}
    subprocess.run([sys.executable, str(script)], env=environment, check=True)
    told = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    shown = [one for one in told if one["event"] in KINDS and not one["importing"]]
    # to run the script is itself to compile it
    ours = [one for one in shown if one["event"] not in ("compile", "exec") or "planted" in "".join(one["what"])]
    assert {one["event"] for one in ours} == seen
