"""The eleven families of 0.3.5, each from a tiny checkpoint through `openllm start FAMILY --model-id DIR`, plain weights.

The checkpoints have no chat template, as the models of those families had none when they came out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.tiny_models import FAMILIES, REMOTE, SEQ2SEQ, tiny_checkpoint

from .conftest import ServerProcess, openllm_start

pytestmark = pytest.mark.timeout(420)
PROMPT = "the quick brown fox — naïve"
TOKENS = 12
GREEDY = {"max_new_tokens": TOKENS, "min_new_tokens": 0, "temperature": 0.0, "repetition_penalty": 1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment with an empty store and empty caches."""
    folder = tmp_path_factory.mktemp("home")
    names = ("BENTOML_HOME", "OPENLLM_HOME", "HF_HOME", "XDG_CACHE_HOME")
    return {name: str(folder / name.lower()) for name in names} | {"HF_HUB_OFFLINE": "1"}


def checkpoint(family: str, folder: Path) -> Path:
    """A tiny model of the family, without a chat template."""
    path = tiny_checkpoint(FAMILIES[family], folder)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def reference(name: str, path: Path, prompt_ids: list[int]) -> list[int]:
    """Greedy token ids of stock transformers, for a tiny model by the name of its architecture."""
    import torch
    import transformers

    encodes = name in SEQ2SEQ or name == "chatglm"
    auto = transformers.AutoModelForSeq2SeqLM if encodes else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(path, trust_remote_code=name in REMOTE).eval()
    ids = torch.tensor([prompt_ids])
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS)[0].tolist()
    return out[1:] if name in SEQ2SEQ else out[len(prompt_ids) :]


def own_tokenizer(path: Path) -> Any:
    """The model's tokenizer, made by transformers."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=True)


def stream(server: ServerProcess, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The data frames of an SSE answer, which must end with [DONE]."""
    answer = httpx.post(server.url + path, json=body, timeout=240)
    assert answer.status_code == 200, answer.text
    frames = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert frames[-1] == "[DONE]"
    return [json.loads(frame) for frame in frames[:-1]]


def post(server: ServerProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A JSON answer."""
    answer = httpx.post(server.url + path, json=body, timeout=240)
    assert answer.status_code == 200, answer.text
    return answer.json()


class Started:
    """The servers of the families, each started while the one before is asked: a start waits more than it computes.

    Args:
        families: in the order of their tests.
        folder: each gets a folder of its own in it.
    """

    def __init__(self, families: list[str], folder: Path, home: dict[str, str]) -> None:
        self._folder, self._home = folder, home
        self._waiting = list(families)
        self._coming: dict[str, Future[tuple[Path, ServerProcess]]] = {}
        self._stacks: dict[str, ExitStack] = {}
        self._pool = ThreadPoolExecutor(2)

    @contextmanager
    def server(self, family: str) -> Iterator[tuple[Path, ServerProcess]]:
        """The checkpoint of a family and the server of it, which ends with the block."""
        while self._waiting and family not in self._coming:
            self._begin(self._waiting.pop(0))
        if self._waiting:
            self._begin(self._waiting.pop(0))
        try:
            yield self._coming[family].result()
        finally:
            self._stacks.pop(family).close()

    def _begin(self, family: str) -> None:
        folder = self._folder / family
        folder.mkdir()
        path = checkpoint(family, folder)
        trust = ["--trust-remote-code"] if FAMILIES[family] in REMOTE else []
        words = (family, "--model-id", str(path), "--backend", "pt", *trust)
        stack = self._stacks[family] = ExitStack()

        def start() -> tuple[Path, ServerProcess]:
            return path, stack.enter_context(openllm_start(folder / "log.txt", *words, environ=self._home))

        self._coming[family] = self._pool.submit(start)

    def end(self) -> None:
        """End what no test asked for."""
        self._pool.shutdown()
        for stack in self._stacks.values():
            stack.close()


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, home: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    """The servers of the families that this run asks."""
    calls = [item.callspec.params for item in request.session.items if item.name.startswith("test_a_family_answers[")]
    servers = Started([params["family"] for params in calls], tmp_path_factory.mktemp("families"), home)
    yield servers
    servers.end()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_answers(family: str, started: Started) -> None:
    """Metadata names it; its greedy tokens are those of transformers; streamed and one-shot texts are one; it chats."""
    with started.server(family) as (path, server):
        metadata = post(server, "/v1/metadata", {})
        assert (metadata["model_name"], metadata["family"]) == (family.replace("-", "_"), family)
        assert metadata["backend"] == "pt"

        body = {"prompt": PROMPT, "llm_config": GREEDY}
        assert post(server, "/v1/generate", {"prompt": PROMPT, "llm_config": {"max_new_tokens": 4}})["responses"]
        whole = post(server, "/v1/generate", body | {"detail": True})
        frames = stream(server, "/v1/generate_stream", body)
        text = "".join(frame["text"] for frame in frames)
        assert text == text_of(whole["responses"][0])
        assert text.strip()
        tokenizer = own_tokenizer(path)
        ids = tokenizer(PROMPT)["input_ids"]
        assert whole["details"]["usage"]["prompt_tokens"] == len(ids)
        generated = [i for frame in frames for i in frame["token_ids"]]
        assert generated == reference(FAMILIES[family], path, ids)
        plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        assert text == tokenizer.decode(generated, **plain)

        messages = [{"role": "user", "content": "Why?"}]
        chat = {"model": path.name, "messages": messages, "max_tokens": TOKENS, "temperature": 0}
        said = post(server, "/v1/chat/completions", chat)["choices"][0]["message"]["content"]
        chunks = stream(server, "/v1/chat/completions", chat | {"stream": True})
        assert (
            "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]) == said
        )


def text_of(response: Any) -> str:
    """The text of one of `responses`: clients of 0.3.5 expect ChatGLM's with the history and Dolly's in an object."""
    if isinstance(response, list):
        response = response[0]
    return response["generated_text"] if isinstance(response, dict) else response


def test_a_model_of_no_family_works_through_its_architecture(home: dict[str, str], tmp_path: Path) -> None:
    """A folder by itself: its config.json says how it is loaded; nothing is recommended for it."""
    path = tiny_checkpoint("gpt2", tmp_path)
    with openllm_start(tmp_path / "log.txt", str(path), "--backend", "pt", environ=home) as server:
        assert post(server, "/v1/metadata", {})["family"] == ""
        body = {"model": path.name, "prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
        said = post(server, "/v1/completions", body)["choices"][0]["text"]
        tokenizer = own_tokenizer(path)
        ids = reference("gpt2", path, tokenizer(PROMPT)["input_ids"])
        assert said == tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_pickle_weights_count_only_when_typed(home: dict[str, str], tmp_path: Path) -> None:
    """`pytorch_model.bin` alone: exit 78 by default and by environment; `--serialisation legacy` serves the same weights."""
    import torch
    from safetensors.torch import load_file

    path = checkpoint("opt", tmp_path)
    ids = own_tokenizer(path)(PROMPT)["input_ids"]
    expected = reference("opt", path, ids)
    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    start = ("opt", "--model-id", str(path), "--backend", "pt")
    command = [sys.executable, "-m", "openllm", "start", *start]
    for more in ({}, {"OPENLLM_SERIALIZATION": "legacy"}, {"OPENLLM_ALLOW_PICKLE_WEIGHTS": "true"}):
        done = subprocess.run(
            command, env=os.environ | home | more, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 78, done.stderr
        assert "pickle" in done.stderr or "--serialisation, which counts only when typed" in done.stderr
        assert "Traceback" not in done.stderr
    log = tmp_path / "log.txt"
    with openllm_start(log, *start, "--serialisation", "legacy", environ=home) as server:
        frames = stream(server, "/v1/generate_stream", {"prompt": PROMPT, "llm_config": GREEDY})
        assert [i for frame in frames for i in frame["token_ids"]] == expected


def test_a_tokenizer_that_is_python_code_alone(home: dict[str, str], tmp_path: Path) -> None:
    """It runs in the engine host: stop strings, logprobs, echoed token ids and prompts that are no text work as ever.

    When the host is killed the next one opens it again.
    """
    path = checkpoint("chatglm", tmp_path)
    start = ("chatglm", "--model-id", str(path), "--backend", "pt", "--trust-remote-code")
    with openllm_start(tmp_path / "log.txt", *start, environ=home) as server:
        tokenizer = own_tokenizer(path)
        ids = tokenizer("naïve", add_special_tokens=False)["input_ids"]
        body = {"model": path.name, "prompt": ids, "max_tokens": TOKENS, "temperature": 0}
        whole = post(server, "/v1/completions", body | {"logprobs": 2})["choices"][0]
        said, texts = whole["text"], whole["logprobs"]["tokens"]
        assert len(texts) == TOKENS
        assert "".join(text for text in texts if text.isascii()) == "".join(char for char in said if char.isascii())
        assert post(server, "/v1/completions", body | {"echo": True})["choices"][0]["text"] == "naïve" + said

        first = next(text for text in texts if text.isascii())
        stopped = post(server, "/v1/completions", body | {"stop": first})["choices"][0]
        assert (stopped["text"], stopped["finish_reason"]) == (said[: said.index(first)], "stop")
        bad = httpx.post(
            server.url + "/v1/completions",
            content=b'{"model": "chatglm", "prompt": "\\ud800"}',
            headers={"content-type": "application/json"},
            timeout=120,
        )
        assert bad.status_code == 400, bad.text

        os.kill(server.host_pid(), signal.SIGKILL)
        server.wait_for(503)
        server.wait_for(200)
        assert post(server, "/v1/completions", body)["choices"][0]["text"] == said


@pytest.mark.parametrize("family", [family for family in FAMILIES if FAMILIES[family] in REMOTE])
def test_code_of_a_models_own_is_refused_unless_trusted(family: str, home: dict[str, str], tmp_path: Path) -> None:
    """Exit 78 before anything is loaded, and the flag that allows it; the code has not run."""
    path = checkpoint(family, tmp_path)
    mark = tmp_path / "it-ran"
    for file in path.glob("*.py"):
        file.write_text(file.read_text() + f"\nopen({str(mark)!r}, 'w').close()\n")
    command = [sys.executable, "-m", "openllm", "start", family, "--model-id", str(path), "--backend", "pt"]
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 78, done.stderr
    assert "--trust-remote-code" in done.stderr
    assert "Traceback" not in done.stderr
    assert not mark.exists()
