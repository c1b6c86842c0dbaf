"""`openllm adapters add|rm|ls` without a server; what they do to a running one stands in test_adapters_served."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from tests.tiny_adapters import blank_adapter

Run = Callable[..., Result]


def test_add_ls_rm(run: Run, tmp_path: Path) -> None:
    """Names by folder or as given; data on stdout, JSON as JSON; `adapters` alone lists."""
    folder = blank_adapter(tmp_path / "poet", rank=4, base="org/model")
    assert run("adapters", "add", str(folder), "-o", "porcelain").stdout == "poet\n"
    added = json.loads(run("adapters", "add", f"{folder}:second", "-o", "json").stdout)
    assert (added["name"], added["rank"], added["base"], added["served"]) == ("second", 4, "org/model", False)
    listed = run("adapters")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["poet", "second"]
    assert "rank 4" in listed.stdout and "org/model" in listed.stdout
    assert run("adapters", "rm", "poet").exit_code == 0
    assert [row["name"] for row in json.loads(run("adapters", "ls", "-o", "json").stdout)] == ["second"]


def test_refusals_have_reasons_and_codes(run: Run, tmp_path: Path) -> None:
    """65 for what is no adapter, 66 for what is not there, 78 for a bad name, 69 for a server that is not there."""
    folder = blank_adapter(tmp_path / "poet")
    for words, code, text in (
        (("add", str(tmp_path)), 65, "adapter_config.json"),
        (("add", "nobody"), 66, "neither a folder nor a stored adapter"),
        (("add", f"{folder}:base"), 78, "no name for an adapter"),
        (("rm", "nobody"), 66, "no adapter 'nobody'"),
        (("ls", "--endpoint", "http://127.0.0.1:9"), 69, "127.0.0.1:9"),
        (("add", str(folder), "--endpoint", "http://127.0.0.1:9"), 69, "127.0.0.1:9"),
    ):
        result = run("adapters", *words)
        assert (result.exit_code, text in result.stderr) == (code, True), (words, result.stderr)
    assert run("adapters", "-o", "porcelain").stdout == ""  # what was not served as asked is not stored either
