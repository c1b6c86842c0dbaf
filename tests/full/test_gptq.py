"""GPTQ and AWQ with gptqmodel, for real: the default model is quantised, served, and answers; so do others' checkpoints.

`python3 tools/dev.py gptq` makes the environment and runs this file. Servers run there, the tests themselves in their own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.commands import openllm_command
from tests.e2e.conftest import ServerProcess, openllm_start
from tests.full.awq import write_awq

from openllm.serialisation import resolve
from openllm_core.options import StoreOptions

pytestmark = pytest.mark.timeout(1500)

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "CONTRIBUTING.md"
QUESTION = "The capital of France is"
PROMPTS = [QUESTION, "Hi", "The history of the telephone began when", "Question: Why is the sun important?\nAnswer:"]
NEAR_TIE = 0.5
"""Log-probabilities closer than this may swap: the kernel multiplies in bfloat16, whose rounding depends on the batch."""


@pytest.fixture(scope="module")
def made(store: dict[str, str], gptq_python: str) -> dict[str, Any]:
    """What `openllm quantize` says of the checkpoint it made of the default model, in groups that do not fit it."""
    words = ["quantize", "smollm", "--bits", "4", "--group-size", "128", "--calibration", str(SAMPLES), "-o", "json"]
    done = openllm_command(store, *words, python=gptq_python, timeout_s=1200)
    assert "128 does not divide the rows" in done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def gptq_server(
    made: dict[str, Any], store: dict[str, str], gptq_python: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The checkpoint, by the name that `openllm quantize` gave it."""
    log = tmp_path_factory.mktemp("gptq") / "log.txt"
    with openllm_start(log, made["model_id"], "--backend", "pt", environ=store, python=gptq_python) as running:
        yield running


def name_of(server: ServerProcess) -> str:
    """The name of the served model."""
    return httpx.get(server.url + "/v1/models", timeout=60).json()["data"][0]["id"]


def complete(server: ServerProcess, prompt: str | list[str], **more: Any) -> list[dict[str, Any]]:
    """Greedy completions, in the order of the prompts."""
    body = {"model": name_of(server), "prompt": prompt, "max_tokens": 16, "temperature": 0, **more}
    answer = httpx.post(server.url + "/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return sorted(answer.json()["choices"], key=lambda choice: choice["index"])


def said(server: ServerProcess) -> str:
    """What the start printed, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", server.log.read_text())


def test_the_checkpoint_is_small_and_its_own(made: dict[str, Any]) -> None:
    """Half the size of the model or less, in groups that divide its layers; it names nothing of the machine that made it."""
    assert (made["bits"], made["group_size"], made["previously_setup"]) == (4, 64, False)
    assert made["size_bytes"] < 130_000_000
    folder = Path(made["path"])
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (config["quant_method"], config["bits"], config["group_size"]) == ("gptq", 4, 64)
    assert not [
        file.name for file in folder.glob("*.json") if "/tmp" in file.read_text() and file.stat().st_size < 10**5
    ]


def test_it_is_served(gptq_server: ServerProcess) -> None:
    """The start names the scheme and who runs it, rows share a window, and the answer is right."""
    assert re.search(r"Quantisation +gptq, 4 bits, groups of 64 +the checkpoint's; gptqmodel", said(gptq_server)), said(
        gptq_server
    )
    assert "one sequence at a time" not in said(gptq_server)
    [choice] = complete(gptq_server, QUESTION)
    assert "Paris" in choice["text"]


def test_a_stream_is_the_answer(gptq_server: ServerProcess) -> None:
    """The deltas of a chat put together are the answer given at once."""
    body = {
        "model": name_of(gptq_server),
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 24,
        "temperature": 0,
    }
    url = gptq_server.url + "/v1/chat/completions"
    whole = httpx.post(url, json=body, timeout=120).json()["choices"][0]["message"]["content"]
    assert "Paris" in whole
    text = ""
    with httpx.stream("POST", url, json={**body, "stream": True}, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
    assert text == whole


def test_prompts_together_give_the_tokens_of_each_alone(gptq_server: ServerProcess) -> None:
    """A batch of prompts of unlike length: the same tokens as one by one, up to where two are all but equally likely."""
    together = complete(gptq_server, PROMPTS, logprobs=2)
    for prompt, beside in zip(PROMPTS, together, strict=True):
        [alone] = complete(gptq_server, prompt, logprobs=2)
        pairs = zip(alone["logprobs"]["tokens"], beside["logprobs"]["tokens"], strict=False)
        differs = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        if differs is not None:
            best, second = sorted(alone["logprobs"]["top_logprobs"][differs].values(), reverse=True)
            assert best - second < NEAR_TIE, (prompt, differs, alone["text"], beside["text"])


def test_the_same_command_again_finds_it(made: dict[str, Any], store: dict[str, str], gptq_python: str) -> None:
    """Nothing is made twice."""
    words = ["quantize", "smollm", "--bits", "4", "--group-size", "128", "--calibration", str(SAMPLES), "-o", "json"]
    command = [gptq_python, "-m", "openllm", *words]
    done = subprocess.run(command, env=os.environ | store, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout) == made | {"previously_setup": True}


def test_a_checkpoint_as_autogptq_wrote_it(
    made: dict[str, Any], store: dict[str, str], gptq_python: str, tmp_path: Path
) -> None:
    """Settings in quantize_config.json alone, weights in a file named for them: it is detected, served, and right."""
    folder = tmp_path / "SmolLM2-GPTQ"
    shutil.copytree(made["path"], folder, ignore=shutil.ignore_patterns("manifest.json", "model.yaml"))
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-64g.safetensors")
    config = json.loads((folder / "config.json").read_text())
    stored = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    names = ("bits", "group_size", "desc_act", "sym", "true_sequential", "damp_percent")
    (folder / "quantize_config.json").write_text(json.dumps({name: stored[name] for name in names if name in stored}))
    log = tmp_path / "log.txt"
    with openllm_start(log, str(folder), "--backend", "pt", environ=store, python=gptq_python) as server:
        assert "gptq, 4 bits, groups of 64" in said(server)
        assert "Paris" in complete(server, QUESTION)[0]["text"]


def test_a_checkpoint_in_awqs_layout(store: dict[str, str], gptq_python: str, tmp_path: Path) -> None:
    """What AutoAWQ writes is detected by its config, served through gptqmodel, and right."""
    plain = resolve("smollm", options=StoreOptions(home=store["BENTOML_HOME"])).path
    write_awq(plain, tmp_path / "SmolLM2-AWQ", group_size=64)
    log = tmp_path / "log.txt"
    with openllm_start(
        log, str(tmp_path / "SmolLM2-AWQ"), "--backend", "pt", environ=store, python=gptq_python
    ) as server:
        assert "awq, 4 bits, groups of 64" in said(server)
        assert "Paris" in complete(server, QUESTION)[0]["text"]


DISTANCES = """
import json, sys, torch
from openllm.backends import checkpoint
from openllm.backends.torch import loading, quantised, tuning, verify
from openllm_core.options import EngineOptions

options = EngineOptions(model_path=sys.argv[1], device="cpu")
found, device = checkpoint.read(sys.argv[1]), torch.device("cpu")
choice = tuning.choose(options, found, device, lambda text, share: None)
model = loading.load(options, found, choice, device, lambda text, share: None)
model.use_attention(choice.attention)
model.windowed = True
expected = verify.reference(model)

def distances():
    with torch.inference_mode():
        made = verify._together(model)
    steps = [verify.distance(mine, other) for mine, other in zip(made, expected)]
    return {"half": [float(each.median()) for each in steps], "one": max(float(each.amax()) for each in steps)}

right, decode = distances(), type(model).decode
type(model).decode = lambda self, ids, mask, positions, cache: decode(self, ids, mask, positions + 1, cache)
computed_in = quantised.computed_in(model.module, model.dtype)
allowed = {"half": verify.TOLERANCE[computed_in], "one": verify.ONE_STEP[computed_in]}
print(json.dumps({"right": right, "wrong": distances(), "allowed": allowed, "in": str(computed_in)}))
"""


def test_the_check_tells_a_wrong_window_from_rounding(
    made: dict[str, Any], store: dict[str, str], gptq_python: str
) -> None:
    """What bfloat16 kernels round lies inside the tolerance with room to spare; positions that are one off lie far outside."""
    command = [gptq_python, "-c", DISTANCES, made["path"]]
    done = subprocess.run(command, env=os.environ | store, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["in"] == "torch.bfloat16"
    allowed, right, wrong = found["allowed"], found["right"], found["wrong"]
    assert max(right["half"]) < allowed["half"] < min(wrong["half"]) / 2, found
    assert right["one"] < allowed["one"] < wrong["one"] / 2, found
