"""`openllm import` as a process: against a hub named by HF_ENDPOINT, and with the hub switched off and no network at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.serialisation import small
from tests.openllm.serialisation.fake_hub import COMMIT, Hub
from tests.openllm.serialisation.test_safety import CODE, ZOO, trapped

# Planted in every Python of a process tree: takes the network away in the kernel, and writes down who tried to use it.
GUARD = """
import os, sys
def seen(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] in (None, "127.0.0.1"):
        return  # no name to look up
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        with open(os.environ["GUARD_LOG"], "a") as file:
            file.write(f"{sys.argv} {event} {arguments}\\n")
sys.addaudithook(seen)
if os.environ.get("GUARD_BLOCK"):
    from openllm.serialisation.sandbox import forbid_network
    assert forbid_network()
"""


class Shell:
    """Runs `openllm` with a store of its own and the guard in place."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "connections"
        (folder / "guard").mkdir()
        (folder / "guard" / "sitecustomize.py").write_text(GUARD)
        self.environment = os.environ | {
            "BENTOML_HOME": str(folder / "home"),
            "PYTHONPATH": str(folder / "guard"),
            "GUARD_LOG": str(self.log),
        }
        self.environment.pop("HF_TOKEN", None)

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "openllm", *words],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def connections(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def data(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_snapshot_of_the_hub_is_what_is_stored(shell: Shell, site: Hub) -> None:
    """HF_ENDPOINT is asked; the tag is the commit; of the weights only safetensors come; a second import fetches nothing."""
    made = data(shell("import", "org/tiny", "-o", "json", HF_ENDPOINT=site.url))
    assert made["tag"] == f"pt-org--tiny:{COMMIT}" and made["previously_setup"] is False
    fetched = {r.rpartition("/")[2] for r in site.requests if r.startswith("GET") and "/resolve/" in r}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    site.requests.clear()
    again = data(shell("import", "org/tiny:main", "-o", "json", HF_ENDPOINT=site.url))
    assert again == made | {"previously_setup": True}
    assert not any("/resolve/" in r for r in site.requests)
    versioned = data(shell("import", "org/tiny", "--model-version", COMMIT, "-o", "json", HF_ENDPOINT=site.url))
    assert versioned["tag"] == made["tag"]
    assert any(r.endswith(f"/revision/{COMMIT}") for r in site.requests)


def test_a_model_of_the_hub_is_not_loaded(shell: Shell, site: Hub) -> None:
    """Importing moves files: no framework that could load them is imported."""
    done = shell("import", "org/tiny", HF_ENDPOINT=site.url, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0]
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "huggingface_hub" in imported
    assert not imported & {"torch", "transformers", "numpy", "bentoml"}


def test_two_revisions_asked_for(shell: Shell, site: Hub) -> None:
    """`id:revision` wins over --model-version, and says so on stderr."""
    done = shell("import", f"org/tiny:{COMMIT}", "--model-version", "other", HF_ENDPOINT=site.url)
    assert done.returncode == 0 and "--model-version other is ignored" in done.stderr


def test_gated_missing_and_unknown(shell: Shell, site: Hub) -> None:
    """Each says which model, what to do and which variable holds the token, in two lines and exit code 66."""
    site.gated = True
    gated = shell("import", "org/tiny", HF_ENDPOINT=site.url)
    assert gated.returncode == 66
    for word in ("org/tiny", "gated", "huggingface.co/org/tiny", "HF_TOKEN"):
        assert word in gated.stderr
    missing = shell("import", "org/absent", HF_ENDPOINT=site.url)
    assert missing.returncode == 66
    assert all(word in missing.stderr for word in ("org/absent", "HF_TOKEN")) and "Traceback" not in missing.stderr
    revision = shell("import", "org/tiny:v9", HF_ENDPOINT=site.url)
    assert revision.returncode == 66 and "v9" in revision.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["import"], 66),
        (["import", "opt"], 66),
        (["import", "org/absent"], 66),
        (["import", "org/absent:v1", "-o", "json"], 66),
        (["start", "org/absent", "--port", "0"], 66),
        (["start", "opt", "--model-id", "org/absent", "--port", "0"], 66),
        (["start", "--port", "0"], 66),
        (["models", "-o", "json"], 0),
        (["list-models"], 0),
        (["models", "verify"], 0),
        (["import", "./tiny"], 0),
        (["import", "org/cached"], 0),
        (["prune", "-y"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_with_the_hub_switched_off_nothing_is_connected(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int
) -> None:
    """HF_HUB_OFFLINE=1, sockets refused by the kernel: commands work or say what is missing, and none tries to connect."""
    monkeypatch.chdir(tmp_path)
    small.model_folder(tmp_path / "tiny")
    cache = tmp_path / "hf" / "hub" / "models--org--cached"
    small.model_folder(cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    # `start` looks whether its port is free before anything else: it must be able to make that one socket.
    done = shell(*words, HF_HUB_OFFLINE="1", GUARD_BLOCK="" if words[0] == "start" else "1")
    assert done.returncode == code, done.stderr
    assert shell.connections() == []
    if words == ["import", "org/cached"]:
        assert f"pt-org--cached:{COMMIT}" in done.stdout
    if code == 66:
        assert "HF_HUB_OFFLINE" in done.stderr


def test_the_guard_sees_connections(shell: Shell, site: Hub) -> None:
    """With the hub switched on the same guard writes down what it asks: the tests above can fail."""
    shell("import", "org/tiny", HF_ENDPOINT=site.url)
    assert any("socket.connect" in line for line in shell.connections())
    blocked = shell("import", "org/tiny", HF_ENDPOINT=site.url, GUARD_BLOCK="1")
    assert blocked.returncode == 74 and "could not be fetched" in blocked.stderr


ALL = """
import json, sys
from click.testing import CliRunner
from openllm.cli import cli
for folder in sys.argv[1:]:
    for words in (["import", folder], ["start", folder, "--check"]):
        done = CliRunner().invoke(cli, words, prog_name="openllm")
        print(json.dumps([words, done.exit_code, done.stderr]))
"""


def test_no_booby_trap_goes_off(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder of the zoo, imported and started with default flags: exit code 65 or 78, nothing of it ran, nothing was
    connected, nothing is in the store."""
    monkeypatch.chdir(tmp_path)
    for n, (_, file, data) in enumerate(ZOO):
        trapped(tmp_path / "zoo" / str(n), file, data)
    (small.model_folder(tmp_path / "zoo" / "file") / "modeling.py").write_text(CODE)
    (small.model_folder(tmp_path / "zoo" / "pickle", weights=False) / "pytorch_model.bin").write_bytes(b"p")
    folders = sorted(map(str, (tmp_path / "zoo").iterdir()))
    done = subprocess.run(
        [sys.executable, "-c", ALL, *folders], env=shell.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 2 * (len(ZOO) + 2)
    assert [r for r in results if r[1] not in (65, 78)] == []
    assert shell.connections() == [] and not list(tmp_path.rglob("canary"))
    assert not (tmp_path / "home" / "models").exists()
