"""`openllm adapters` beside a running server, in processes of their own, over the echo backend, which says an adapter's word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
from click.testing import Result
from tests.e2e.conftest import ServerProcess, openllm_start
from tests.tiny_adapters import blank_adapter

from openllm.cli.adapters import stored

Run = Callable[..., Result]
ECHO = ("--backend", "echo", "--max-adapters", "1")


def said(server: ServerProcess, name: str) -> tuple[str, str]:
    """What an adapter answers, and who says that it did."""
    answer = httpx.post(server.url + "/v1/generate", json={"prompt": "hi", "adapter_name": name}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["responses"][0], answer.headers["x-openllm-adapter"]


def test_what_is_served_is_served_again_and_what_is_refused_changes_nothing(run: Run, tmp_path: Path) -> None:
    """Added, answered, answered after a restart; an adapter that a server refuses is not stored, and the next start is as before.

    One that is stored and not loaded is removed all the same.
    """
    good, other = blank_adapter(tmp_path / "good", echo="GOOD"), blank_adapter(tmp_path / "other", echo="OTHER")
    with openllm_start(tmp_path / "first.txt", *ECHO, "--allow-adapter-load") as server:
        added = run("adapters", "add", f"{good}:poet", "--endpoint", server.url)
        assert added.exit_code == 0, added.stderr
        assert said(server, "poet") == ("GOOD", "poet")
        served = stored()
        full = run("adapters", "add", f"{other}:clerk", "--endpoint", server.url)
        assert full.exit_code == 1 and "--max-adapters" in full.stderr
        assert stored() == served
        assert run("adapters", "add", f"{other}:clerk").exit_code == 0
        removed = run("adapters", "rm", "clerk", "--endpoint", server.url)
        assert removed.exit_code == 0, removed.stderr
        assert stored() == served
    with openllm_start(tmp_path / "second.txt", *ECHO) as server:
        assert said(server, "poet") == ("GOOD", "poet")
        for _ in range(2):
            refused = run("adapters", "add", f"{other}:poet", "--endpoint", server.url)
            assert refused.exit_code != 0 and "--allow-adapter-load" in refused.stderr
            assert stored() == served
        kept = run("adapters", "rm", "poet", "--endpoint", server.url)
        assert kept.exit_code != 0 and stored() == served
    with openllm_start(tmp_path / "third.txt", *ECHO) as server:
        assert said(server, "poet") == ("GOOD", "poet")
