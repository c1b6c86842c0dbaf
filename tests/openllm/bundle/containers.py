"""What the container tests share: Bentos with an image, container engines that record what they are told, and a parser."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from openllm.bundle.bentos import Bento, get
from openllm_core.options import StoreOptions

IMAGE: dict[str, Any] = {
    "base_image": "python:3.11-slim",
    "python_version": "3.11",
    "commands": ["apt-get update -q"],
    "python_requirements": "openllm==1.0\n",
    "post_commands": ["echo done"],
    "build_include": ["wheels"],
}

ENGINE = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    seen = {{"args": [{name!r}, *sys.argv[1:]], "buildkit": os.environ.get("DOCKER_BUILDKIT")}}
    if "build" in sys.argv[1:2]:
        root = sys.argv[-1]
        seen["files"] = sorted(os.path.relpath(os.path.join(d, f), root) for d, _, fs in os.walk(root) for f in fs)
        seen["text"] = open(sys.argv[sys.argv.index("--file") + 1]).read()
    log.write(json.dumps(seen) + "\\n")
print("engine output")
if sys.argv[1] in {failing!r}:
    print("engine says no", file=sys.stderr)
    sys.exit(3)
"""


class Engines:
    """A PATH with engines of our own only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "engines"
        self.log = folder / "engines.log"
        self.folder.mkdir()

    def add(self, name: str, *failing: str) -> None:
        """An engine; the words of its command line at which it fails."""
        path = self.folder / name
        path.write_text(ENGINE.format(python=sys.executable, log=str(self.log), name=name, failing=failing))
        os.chmod(path, 0o755)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What they were told, but for being asked whether they are there."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for call in map(json.loads, lines) if call["args"][1] != "info"]


def make_bento(
    home: Path,
    *,
    name: str = "tiny-service",
    version: str = "v1",
    models: tuple[str, ...] = ("pt-tiny:v1",),
    labels: dict[str, str] | None = None,
    envs: list[dict[str, Any]] | None = None,
    **image: Any,
) -> Bento:
    """A Bento in the layout BentoML writes, and its models, of a few bytes each."""
    folder = home / "bentos" / name / version
    (folder / "env" / "docker").mkdir(parents=True)
    (folder / "env" / "docker" / "Dockerfile").write_text("FROM nothing\n")
    (folder / "src").mkdir()
    (folder / "src" / "service.py").write_text("svc = None\n")
    info = {
        "name": name,
        "version": version,
        "labels": {"bundler": "openllm.bundle", "start_name": "llama"} if labels is None else labels,
        "models": [{"tag": tag} for tag in models],
        "envs": envs or [],
        "image": IMAGE | image,
        "spec": 2,
    }
    (folder / "bento.yaml").write_text(yaml.safe_dump(info))
    (folder.parent / "latest").write_text(version)
    for tag in models:
        model = home.joinpath("models", *tag.split(":"))
        model.mkdir(parents=True, exist_ok=True)
        (model / "model.safetensors").write_bytes(b"weights")
    return get(f"{name}:{version}", StoreOptions(home=str(home)))


def instructions(text: str) -> list[str]:
    """The instructions of a Containerfile, one string each: comments out, continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\[ \t]*\n", " ", "\n".join(lines))
    return [line.strip() for line in joined.splitlines()]


def words(text: str) -> list[str]:
    """The first word of each instruction."""
    return [line.split(None, 1)[0].upper() for line in instructions(text)]
