"""Models of the store in a running server: served without a network, deleted meanwhile, moved as a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.conftest import openllm_start
from tests.openllm.serialisation.test_command import GUARD
from tests.tiny_models import tiny_checkpoint


def openllm(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "openllm", *words],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def answer(url: str) -> Any:
    body = {"model": "llama", "prompt": "the quick brown", "max_tokens": 8, "temperature": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"]


@pytest.mark.timeout(300)
def test_served_without_network_deleted_meanwhile_and_from_its_archive(tmp_path: Path) -> None:
    """A stored model is served with not one connection, goes on after `prune`, and its next start is exit 66.

    Its archive, unpacked, is served as a folder and gives the same answer.
    """
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    log = tmp_path / "connections"
    environ = {
        "BENTOML_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(tmp_path / "guard"),
        "GUARD_LOG": str(log),
    }
    folder = tiny_checkpoint("llama", tmp_path / "made")
    made = json.loads(openllm(environ, "import", str(folder), "-o", "json").stdout)
    assert openllm(environ, "export", made["tag"], str(tmp_path / "llama.tar.gz")).returncode == 0

    with openllm_start(tmp_path / "stored.log", made["tag"], "--backend", "pt", environ=environ) as server:
        server.wait_for(200)
        before = answer(server.url)
        pruned = openllm(environ, "prune", "--yes")
        assert pruned.stdout == f"{made['tag']} deleted from model store.\n"
        assert not Path(made["path"]).exists()
        assert answer(server.url) == before
    again = openllm(environ, "start", made["tag"], "--port", "0")
    assert again.returncode == 66 and made["tag"] in again.stderr
    assert not log.exists(), log.read_text()

    (tmp_path / "llama").mkdir()
    with tarfile.open(tmp_path / "llama.tar.gz") as archive:
        archive.extractall(tmp_path / "llama")  # our own, so nothing is filtered, which Python 3.11.2 cannot do
    with openllm_start(tmp_path / "folder.log", str(tmp_path / "llama"), "--backend", "pt", environ=environ) as server:
        server.wait_for(200)
        assert answer(server.url) == before
    assert json.loads(openllm(environ, "list-models", "-o", "json").stdout) == {}
