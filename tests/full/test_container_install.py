"""What a container installs resolves: the requirements of a Bento, by the command of its Containerfile, up to the download."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from openllm.bundle import containerfile, wheels
from openllm.bundle.requirements import for_own_code, requirements

EXTRAS = ("fine-tune", "gptq", "grpc", "otel", "vllm")
"""All that a Bento may ask for, which is what our base image for CUDA has together."""


def test_the_packages_of_a_bento_fit_each_other(tmp_path: Path) -> None:
    """Our wheels, the versions used here, what model code imports and BentoML go into one empty environment.

    For a GPU: the index that the lines for a CPU name beside is PyTorch's, which not every network reaches.
    """
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    lines = requirements(EXTRAS, wheels.embed(tmp_path / "wheels"), cpu=False, more=for_own_code("chatglm"))
    (tmp_path / "requirements.txt").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [uv, "--directory", tmp_path, "pip", "install", "--dry-run", "-r", "requirements.txt"],
        env=os.environ | containerfile.ENVIRONMENT | {"VIRTUAL_ENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    chosen = {line.split()[1].partition("==")[0] for line in done.stderr.splitlines() if line.startswith(" + ")}
    ours = {"openllm", "openllm-core", "openllm-client"}
    assert ours | {"torch", "transformers", "bentoml", "vllm", "gptqmodel", "sentencepiece"} <= chosen
