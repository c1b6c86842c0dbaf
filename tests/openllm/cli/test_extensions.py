"""`openllm extension …`: the small utilities, as typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tests.openllm.bundle.containers import Engines, make_bento

from openllm.bundle import base_images
from openllm.cli import COMMANDS, EXTENSIONS

Run = Callable[..., Result]
NAMES = [name for name, (_, _, section) in COMMANDS.items() if section == EXTENSIONS and name != "extension"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    return tmp_path / "bentoml"


def test_they_have_a_section_of_their_own(run: Run) -> None:
    """`openllm --help` lists them below the commands, under Extensions."""
    listed = run("--help").stdout.partition("Extensions:")[2].partition("Options:")[0]
    expected = {
        "playground",
        "build-base-container",
        "dive-bentos",
        "get-containerfile",
        "get-prompt",
        "list-bentos",
        "list-models",
    }
    assert expected <= set(NAMES)
    for name in NAMES:
        assert f"\n  {name} " in listed


@pytest.mark.parametrize("group", ["extension", "ext"])
def test_they_run_under_ext_too(run: Run, home: Path, group: str) -> None:
    """`openllm ext NAME` is `openllm NAME`, with dashes or underscores, help included; other commands are not there."""
    assert all(f"  {name} " in run(group, "--help").stdout for name in NAMES)
    make_bento(home)
    assert run(group, "list_bentos", "-o", "json").stdout == run("list-bentos", "-o", "json").stdout != "{}\n"
    assert "BENTO" in run(group, "get-containerfile", "--help").stdout
    assert run(group, "start").exit_code == 2
    assert run(group, "nonsense").exit_code == 2


def test_list_bentos(run: Run, home: Path) -> None:
    """By what they serve, with tag, size and models; what others made is left out; a table for people, tags for scripts."""
    bento = make_bento(home)
    make_bento(home, name="others", labels={})
    make_bento(home, name="a-qwen-service", labels={"bundler": "openllm.bundle", "start_name": "qwen"}, models=())
    (home / "bentos" / "broken" / "v1").mkdir(parents=True)
    (home / "bentos" / "broken" / "v1" / "bento.yaml").write_text("{")
    data = json.loads(run("list-bentos", "-o", "json").stdout)
    assert list(data) == ["qwen", "llama"] and data["qwen"][0]["models"] == []
    (entry,) = data["llama"]
    assert entry["tag"] == "tiny-service:v1" and entry["path"] == str(bento.path)
    assert entry["size_bytes"] == sum(path.stat().st_size for path in bento.path.rglob("*") if path.is_file())
    assert entry["models"] == [{"tag": "pt-tiny:v1", "size": "7 B", "size_bytes": 7}]
    lines = run("list-bentos").stdout.splitlines()
    assert lines[0].split() == ["LLM", "Tag", "Size", "Models"] and lines[3].split()[-1] == "pt-tiny:v1"
    assert run("list-bentos", "-o", "porcelain").stdout.split() == ["a-qwen-service:v1", "tiny-service:v1"]


def test_no_bentos(run: Run, home: Path) -> None:
    """An empty store is an empty object, and a word to people."""
    assert run("list-bentos", "-o", "json").stdout == "{}\n"
    shown = run("list-bentos")
    assert shown.stdout == "" and "openllm build" in shown.stderr


def test_dive_bentos(run: Run, home: Path) -> None:
    """Every file of a Bento with its size; the newest version without one; 66 for none, 2 for somebody else's."""
    bento = make_bento(home)
    data = json.loads(run("dive-bentos", "tiny-service", "-o", "json").stdout)
    assert data["path"] == str(bento.path)
    assert {"path": "src/service.py", "size": "11 B", "size_bytes": 11} in data["files"]
    lines = run("dive-bentos", "tiny-service:latest").stdout.splitlines()
    assert lines[0] == str(bento.path) and any(line.startswith("bento.yaml ") for line in lines)
    assert str(bento.path / "bento.yaml") in run("dive-bentos", "tiny-service:v1", "-o", "porcelain").stdout.split()
    assert run("dive-bentos", "tiny-service", "--machine").stdout.strip() == str(bento.path)
    for missing in ("tiny-service:v2", "nothing", "../bentos:v1", ""):
        assert run("dive-bentos", missing).exit_code == 66
    make_bento(home, name="others", labels={})
    assert run("dive-bentos", "others").exit_code == 2


def test_get_containerfile(run: Run, home: Path) -> None:
    """stdout is the Containerfile and nothing else; a damaged Bento is 65."""
    make_bento(home)
    done = run("get-containerfile", "tiny-service:v1")
    assert done.exit_code == 0, done.stderr
    assert "FROM python:3.11-slim AS base-container\n" in done.stdout and done.stdout.count("\nENTRYPOINT") == 1
    assert done.stderr == ""
    (home / "bentos" / "tiny-service" / "v1" / "bento.yaml").write_text("{")
    assert run("get-containerfile", "tiny-service:v1").exit_code == 65


def test_build_base_container(run: Run, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It prints the names it made: one a line, or by registry with the commit; without an engine it ends with 71."""
    monkeypatch.setattr(base_images, "commit", lambda: "0123456789abcdef")
    engines = Engines(tmp_path)
    monkeypatch.setenv("PATH", str(engines.folder))
    failed = run("build-base-container", "--version-strategy", "latest")
    assert failed.exit_code == 71 and "The context lies in" in failed.stderr
    engines.add("podman")
    done = run("build-base-container", "--container-registry", "gh", "--device", "cpu")
    assert done.stdout.split() == [
        "ghcr.io/bentoml/openllm:sha-0123456-cpu",
        "ghcr.io/bentoml/openllm:sha-0123456-cpu-base",
    ]
    assert "building ghcr.io/bentoml/openllm:sha-0123456-cpu with podman" in done.stderr
    data = json.loads(run("build-base-container", "--version-strategy", "latest", "--machine").stdout)
    name = "public.ecr.aws/y5w8i4y6/bentoml/openllm:latest"
    assert data == {"ecr": [name, f"{name}-base"], "image_sha": "0123456789abcdef"}
    assert not [call for call in engines.calls if call["args"][1] == "push"]
    run("build-base-container", "--version-strategy", "latest", "--push")
    assert [call["args"][2] for call in engines.calls if call["args"][1] == "push"] == data["ecr"]
