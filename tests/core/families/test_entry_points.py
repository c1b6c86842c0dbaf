"""A family of another package, installed as packages are: metadata on the path, found in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MODULE = """
from openllm_core.families.spec import from_toml

FAMILY = from_toml('''
name = "tiny-stories"
compat_family = "llama"
architectures = ["TinyStoriesForCausalLM"]
default_id = "org/tiny-stories"
model_ids = ["org/tiny-stories"]

[generation]
temperature = 0.25

[sources]
"*" = "unverified"
''', __file__)
"""
PROGRAM = """
from openllm_core.config.llm import LLMConfig
from openllm_core.families import registry

family = registry.find("tiny_stories")
assert family is registry.find("Org/Tiny-Stories") is registry.for_architecture("TinyStoriesForCausalLM")
assert registry.suggest("tiny-storie") == ["tiny-stories"]
assert LLMConfig.for_model("tiny-stories")["temperature"] == 0.25
print(registry.all()[-1].name)
"""


def test_an_installed_package_adds_a_family(tmp_path: Path) -> None:
    """Its family is found by name, id and architecture, suggested, and configured like ours."""
    (tmp_path / "tiny_stories.py").write_text(MODULE)
    info = tmp_path / "tiny_stories-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-stories\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[openllm.families]\ntiny = tiny_stories:FAMILY\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["tiny-stories"]
