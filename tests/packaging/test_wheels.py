"""The three wheels: pure, whole, nothing but ours in them, and one version for all."""

from __future__ import annotations

import ast
import email
import re
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.packaging.conftest import PACKAGES, ROOT, build

IMPORT_NAMES = list(PACKAGES.values())


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as file:
        name = next(name for name in file.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(file.read(name))


def requirements(wheel: Path) -> dict[str, str]:
    """Name -> specifier of what the package asks for without extras."""
    found: dict[str, str] = {}
    for line in metadata(wheel).get_all("Requires-Dist") or []:
        if "extra ==" not in line:
            name = re.match(r"[A-Za-z0-9._-]+", line)
            assert name
            found[name[0]] = line[name.end() :].strip()
    return found


@pytest.mark.parametrize("name", IMPORT_NAMES)
def test_is_pure(wheels: dict[str, Path], name: str):
    """One wheel serves every platform: tag py3-none-any, and Root-Is-Purelib says so."""
    assert wheels[name].name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheels[name]) as file:
        text = file.read(next(n for n in file.namelist() if n.endswith(".dist-info/WHEEL"))).decode()
    assert "Root-Is-Purelib: true" in text
    assert "Tag: py3-none-any" in text


@pytest.mark.parametrize(("folder", "name"), PACKAGES.items())
def test_holds_exactly_the_source(wheels: dict[str, Path], archive: Path, folder: str, name: str):
    """Every file of the source tree, data files included, and besides those only the metadata with the licence."""
    source = archive / folder / "src"
    expected = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheels[name]) as file:
        held = {entry for entry in file.namelist() if not entry.endswith("/")}
    info = {entry for entry in held if ".dist-info/" in entry}
    assert held - info == {entry for entry in expected if "__pycache__" not in entry}
    kinds = {entry.partition(".dist-info/")[2] for entry in info}
    assert kinds - {"entry_points.txt"} == {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
    assert f"{name}/py.typed" in held


@pytest.mark.parametrize(("folder", "name"), PACKAGES.items())
def test_an_sdist_builds_the_same_wheel(
    wheels: dict[str, Path], sdists: dict[str, Path], tmp_path: Path, folder: str, name: str
):
    """An sdist needs nothing outside itself: unpacked elsewhere it gives the same files, version and requirements."""
    with tarfile.open(sdists[name]) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.0 to 3.11.3 have none
        tar.extractall(tmp_path / "elsewhere")
    again = build(next((tmp_path / "elsewhere").iterdir()), tmp_path / "again")
    with zipfile.ZipFile(again) as ours, zipfile.ZipFile(wheels[name]) as theirs:
        assert set(ours.namelist()) == set(theirs.namelist())
    for field in ("Version", "Requires-Dist", "License-Expression"):
        assert sorted(metadata(again).get_all(field) or []) == sorted(metadata(wheels[name]).get_all(field) or [])


def test_one_version_and_exact_siblings(wheels: dict[str, Path]):
    """The three share one version, and ask for each other at exactly that."""
    versions = {metadata(wheel)["Version"] for wheel in wheels.values()}
    assert len(versions) == 1
    pin = f"=={versions.pop()}"
    assert requirements(wheels["openllm_client"])["openllm-core"] == pin
    assert requirements(wheels["openllm"])["openllm-core"] == pin
    assert requirements(wheels["openllm"])["openllm-client"] == pin


def test_what_core_and_client_ask_for(wheels: dict[str, Path]):
    """Five small packages at most: no framework comes with the client."""
    assert set(requirements(wheels["openllm_core"])) == {"attrs", "cattrs", "orjson"}
    assert set(requirements(wheels["openllm_client"])) == {"openllm-core", "httpx"}


@pytest.mark.parametrize("name", IMPORT_NAMES)
def test_every_requirement_has_a_floor(wheels: dict[str, Path], name: str):
    """Without a floor a resolver may fall back to a release from years ago."""
    assert not {n: spec for n, spec in requirements(wheels[name]).items() if ">=" not in spec and "==" not in spec}


@pytest.mark.parametrize("name", IMPORT_NAMES)
def test_metadata(wheels: dict[str, Path], name: str):
    """Licence, Python floor and typing are declared."""
    found = metadata(wheels[name])
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in (found.get_all("Classifier") or [])


def test_entry_points(wheels: dict[str, Path]):
    """The command and the two backends are found by name."""
    with zipfile.ZipFile(wheels["openllm"]) as file:
        text = file.read(next(n for n in file.namelist() if n.endswith("entry_points.txt"))).decode()
    assert "openllm = openllm.cli:main" in text
    assert "pt = openllm.backends.torch" in text
    assert "echo = openllm.backends.echo" in text


def test_every_copy_of_the_licence_is_the_licence():
    """Each package carries the text of the root's LICENSE, since a wheel cannot take it from there."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert all((ROOT / folder / "LICENSE").read_text(encoding="utf-8") == text for folder in PACKAGES)


def test_the_lockstep_hook_is_one_file():
    """The build hook of client and runtime is the same; it cannot be shared, since an sdist holds one package."""
    one, other = (ROOT / folder / "hatch_build.py" for folder in ("openllm-client", "openllm-python"))
    assert one.read_bytes() == other.read_bytes()


# import name -> distribution, where they differ
DISTRIBUTIONS = {"attr": "attrs", "prometheus_client": "prometheus-client", "yaml": "pyyaml"}
# asked for though the source imports it nowhere by that name: reason
UNSEEN = {
    "accelerate": "transformers needs it to place weights while loading",
    "bentoml": "the store and the bundle are its formats",
    "gguf": "transformers needs it to read GGUF files",
    "httptools": "the parser uvicorn's protocol is built on",
    "huggingface-hub": "imported by name when a hub id is asked for",
    "safetensors": "transformers needs it to read and write weights",
}


# what an extra brings: the files and folders that may import it
GRPC = ("openllm/rpc", "openllm_client/_grpc", "openllm_core/proto")
OPTIONAL = {
    "google": GRPC,
    "grpc": GRPC,
    "grpc_health": ("openllm/rpc",),
    "grpc_reflection": ("openllm/rpc",),
    "openai": tuple(f"openllm_client/{name}.py" for name in ("_client", "_async_client", "_http", "_async_http")),
    "opentelemetry": ("openllm/telemetry",),
    "smolagents": ("openllm_client/_smolagents.py",),
    "vllm": ("openllm/backends/vllm",),
    "xgrammar": ("openllm/backends/guides.py", "openllm/backends/torch/guiding.py"),
}


def is_optional(name: str, path: str) -> bool:
    """Whether the file at `path`, relative to the source folder, may import what only an extra brings."""
    return any(path == place or path.startswith(place + "/") for place in OPTIONAL.get(name, ()))


def imported_by(folder: Path) -> set[str]:
    """Distributions that the source below a folder imports, at any depth; optional ones only where they do not belong."""
    found: set[str] = set()
    for path in folder.rglob("*.py"):
        here: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                here |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                here.add(node.module.partition(".")[0])
        found |= {name for name in here if not is_optional(name, path.relative_to(folder).as_posix())}
    third_party = found - set(sys.stdlib_module_names) - set(PACKAGES.values())
    return {DISTRIBUTIONS.get(name, name) for name in third_party}


@pytest.mark.parametrize(("folder", "name"), PACKAGES.items())
def test_what_is_imported_is_asked_for(wheels: dict[str, Path], archive: Path, folder: str, name: str):
    """Each third-party import has its own line among the requirements: nothing comes by luck with something else."""
    asked = set(requirements(wheels[name]))
    if name != "openllm_core":
        asked |= set(requirements(wheels["openllm_core"]))
    if name == "openllm":
        asked |= {"pytest"}  # openllm.testing runs inside the test suites of backends
    assert imported_by(archive / folder / "src") - asked == set()


def test_what_is_asked_for_is_used(wheels: dict[str, Path], archive: Path):
    """A requirement that no import needs says why it is there."""
    third_party = {name for name in requirements(wheels["openllm"]) if not name.startswith("openllm")}
    assert third_party - imported_by(archive / "openllm-python" / "src") - set(UNSEEN) == set()
