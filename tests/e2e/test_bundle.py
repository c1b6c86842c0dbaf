"""A Bento served in both ways, from any folder, without a network, and on a machine that has only its archive."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from tests.e2e.conftest import ServerProcess, free_port, openllm_start
from tests.openllm.serialisation.test_command import GUARD
from tests.openllm.server.serving import OPEN
from tests.tiny_adapters import forcing_adapter
from tests.tiny_models import tiny_checkpoint

from openllm.bundle import containerfile

ROUTES = (
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/healthz"),
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/metrics"),
    ("GET", "/nothing"),
    ("GET", "/v1/models"),
    ("GET", "/openapi.json"),
    ("GET", "/docs.json"),
    ("GET", "/schema.json"),
    ("POST", "/v1/metadata"),
    ("PUT", "/v1/models"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/generate"),
    ("POST", "/v1/generate_stream"),
    ("POST", "/v1/embeddings"),
    ("POST", "/hf/agent"),
    ("GET", "/v1/adapters"),
    ("POST", "/v1/adapters"),
)
FORCED = 100  # the token that the adapter makes every answer of
BODY = {
    "/v1/completions": {"model": "tiny", "prompt": "the quick brown", "max_tokens": 8},
    "/v1/chat/completions": {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "top_p": 7},
    "/v1/generate": {"prompt": "she sells", "llm_config": {"max_new_tokens": 4}},
    "/v1/generate_stream": {"prompt": "she sells", "llm_config": {"max_new_tokens": 4}},
    "/v1/embeddings": ["how deep is the ocean", "tea"],
    "/hf/agent": {"inputs": "the quick brown", "parameters": {"max_new_tokens": 4}},
    "/v1/adapters": {"adapter_name": "base"},
}


def found_ready(folder: Path) -> list[str]:
    """Servers that the images' health check finds by their notes; it is well while there is one."""
    check = json.loads(containerfile.health_check().partition("CMD ")[2])
    done = subprocess.run(
        [sys.executable, "-m", *check, "-o", "porcelain"],
        env=os.environ | {"XDG_RUNTIME_DIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == (0 if done.stdout else 1), done.stderr
    return done.stdout.splitlines()


def run(environ: dict[str, str], *words: str, cwd: Path | None = None) -> str:
    """A command that must end well; its stdout."""
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=os.environ | environ,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def bentoml_serve(log: Path, tag: str, environ: dict[str, str], cwd: Path, port: int) -> Iterator[ServerProcess]:
    """Run `bentoml serve TAG` in a folder, on the port that the Bento says; end it afterwards. It is not waited for."""
    command = [sys.executable, "-m", "bentoml", "serve", tag, "--host", "127.0.0.1"]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=os.environ | environ, cwd=cwd)
    family: list[psutil.Process] = []
    try:
        yield ServerProcess(process, f"http://127.0.0.1:{port}", log)
        family = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(45)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        _, left = psutil.wait_procs(family, timeout=15)
        for child in left:
            child.kill()
        assert not left, f"left behind: {left}\n{log.read_text()}"


def answers(url: str) -> dict[str, Any]:
    """What every route answers, without what differs between any two answers."""
    found: dict[str, Any] = {}
    with httpx.Client(base_url=url, timeout=120) as http:
        for method, path in ROUTES:
            reply = http.request(method, path, json=BODY.get(path) if method == "POST" else None)
            found[f"{method} {path}"] = (reply.status_code, reply.headers["content-type"], _constant(path, reply))
    return found


def _constant(path: str, reply: httpx.Response) -> Any:
    """What two servers of one model answer alike."""
    if path == "/metrics":
        return {line.split()[2] for line in reply.text.splitlines() if line.startswith("# TYPE openllm")}
    if "json" not in reply.headers["content-type"]:
        return reply.text
    data = reply.json()
    if isinstance(data, dict):
        for changing in ("id", "created"):
            data.pop(changing, None)
        for card in data["data"] if path == "/v1/models" and reply.is_success else ():
            card.pop("created")
    return _rounded(data)


def _rounded(data: Any) -> Any:
    """Numbers to three places: two processes may add the parts of a vector in another order."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_rounded(value) for value in data]
    return round(data, 3) if isinstance(data, float) else data


def streamed(url: str) -> str:
    """The text of a streamed completion; it ends with [DONE]."""
    body = BODY["/v1/completions"] | {"stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return "".join(json.loads(line)["choices"][0]["text"] for line in lines[:-1])


def by_adapter(url: str) -> set[str]:
    """The tokens of an answer of the adapter that the Bento carries: all the same one."""
    body = BODY["/v1/completions"] | {"adapter_name": "forced", "ignore_eos": True, "logprobs": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return set(reply.json()["choices"][0]["logprobs"]["tokens"])


@pytest.mark.timeout(400)
def test_both_ways_to_serve_a_bento_answer_alike(tmp_path: Path) -> None:
    """`openllm start TAG` and, from its archive in an empty store, `bentoml serve TAG`: the same routes and answers.

    Neither makes a connection. Readiness is 503 until a token was generated, the flags of the build are in force, and
    nothing is left when either ends.
    """
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    (tmp_path / "elsewhere").mkdir()
    connections = tmp_path / "connections"
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "BENTOML_DO_NOT_TRACK": "False",  # what serves does not report its use, even so
        "XDG_RUNTIME_DIR": str(tmp_path),
        "PYTHONPATH": str(tmp_path / "guard"),
        "GUARD_LOG": str(connections),
    }
    here, there = ({"BENTOML_HOME": str(tmp_path / name)} | quiet for name in ("here", "there"))
    folder = tiny_checkpoint("llama", tmp_path / "made").rename(tmp_path / "tiny")
    port = free_port()
    flags = ("--backend", "pt", "--dtype", "float32", "--temperature", "0", "--max-queue", "3", "--port", str(port))
    adapter = forcing_adapter(folder, FORCED, tmp_path / "forcing")
    carried = ("--adapter-id", f"{adapter}:forced", "-o", "porcelain")
    tag = run(here, "openllm", "build", str(folder), *flags, *carried).strip()
    shutil.rmtree(folder)
    shutil.rmtree(adapter)

    words = (tag, "--model-id", "org/other")
    with openllm_start(tmp_path / "start.log", *words, environ=here) as server:
        started, text, forced = answers(server.url), streamed(server.url), by_adapter(server.url)
        assert found_ready(tmp_path) == [server.url]
    said = server.log.read_text()
    assert f"Bento          {tag}" in said and "--model-id org/other is ignored" in said
    assert started["GET /v1/models"][2]["data"][0]["id"] == "tiny"
    assert json.loads(started["POST /v1/metadata"][2]["configuration"])["generation_config"]["temperature"] == 0
    assert text == started["POST /v1/completions"][2]["choices"][0]["text"] != ""
    assert len(forced) == 1

    archive = tmp_path / "moved.tar.gz"
    silent = {"BENTOML_DO_NOT_TRACK": "True"}  # BentoML's own commands would
    run(here | silent, "bentoml", "export", tag, str(archive), cwd=tmp_path)
    run(there | silent, "bentoml", "import", str(archive), cwd=tmp_path)
    (tmp_path / "here").rename(tmp_path / "gone")
    with bentoml_serve(tmp_path / "serve.log", tag, there, tmp_path / "elsewhere", port) as server:
        server.wait_for(503, within_s=120)
        assert server.status("/livez") == 200
        assert found_ready(tmp_path) == []
        server.wait_for(200, within_s=120)
        assert answers(server.url) == started
        assert streamed(server.url) == text
        assert by_adapter(server.url) == forced
        assert server.metric("openllm_generation_tokens_total") > 0
        assert found_ready(tmp_path) == [server.url]
    assert found_ready(tmp_path) == []
    assert not connections.exists(), connections.read_text()


def opened(url: str, key: str) -> set[str]:
    """What answers otherwise than that a valid key is needed."""
    found: set[str] = set()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, timeout=120, headers=headers) as http:
        for method, path in ROUTES:
            reply = http.request(method, path, json=BODY.get(path) if method == "POST" else None)
            if reply.status_code != 401:
                found.add(path)
            else:
                assert reply.json()["error"]["code"] == "invalid_api_key"
    return found


@pytest.mark.timeout(400)
def test_a_bento_with_a_key_file_asks_for_a_key(tmp_path: Path) -> None:
    """Built with a relative path and served from another folder, in both ways: closed without a key of the file, open with
    one, and a key that is taken out of the file while it is served opens nothing any more."""
    environ = {"BENTOML_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "XDG_RUNTIME_DIR": str(tmp_path)}
    folder = tiny_checkpoint("llama", tmp_path / "made").rename(tmp_path / "tiny")
    (tmp_path / "elsewhere").mkdir()
    port, file = free_port(), ("--api-key-file", "./keys")
    ann, bob = (run(environ, "openllm", "keys", "add", name, *file, cwd=tmp_path).strip() for name in ("ann", "bob"))
    words = ("--backend", "pt", "--dtype", "float32", *file, "--port", str(port), "-o", "porcelain")
    tag = run(environ, "openllm", "build", str(folder), *words, cwd=tmp_path).strip()
    everything, free = {path for _, path in ROUTES}, {path for _, path in ROUTES} & OPEN

    with openllm_start(tmp_path / "start.log", tag, environ=environ, cwd=tmp_path / "elsewhere") as server:
        assert [opened(server.url, key) for key in ("", "of-nobody", ann)] == [free, free, everything]
    with bentoml_serve(tmp_path / "serve.log", tag, environ, tmp_path / "elsewhere", port) as server:
        server.wait_for(200, within_s=120)
        assert [opened(server.url, key) for key in ("", "of-nobody", ann, bob)] == [free, free, everything, everything]
        run(environ, "openllm", "keys", "rm", "bob", *file, cwd=tmp_path)
        time.sleep(1.5)  # the server looks once a second
        assert [opened(server.url, key) for key in (ann, bob)] == [everything, free]
    said = server.log.read_text()
    assert ann not in said and bob not in said
