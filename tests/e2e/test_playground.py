"""The notebooks run from top to bottom: with the default model, and on tiny models of the families they are for."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tests.tiny_models import tiny_checkpoint

from openllm.playground import PARAMETERS, write_notebooks

CELL_LIMIT_S = 240


def run(name: str, folder: Path, environ: dict[str, str], parameters: dict[str, Any] | None = None) -> str:
    """Write the notebook, set its parameters, execute it in its folder; gives all it printed."""
    path = {one.path.stem: one.path for one in write_notebooks(folder)}[name]
    notebook = nbformat.read(path, as_version=4)
    [cell] = [cell for cell in notebook.cells if PARAMETERS in cell.metadata.get("tags", [])]
    cell.source += "".join(f"\n{key} = {value!r}" for key, value in (parameters or {}).items())
    client = NotebookClient(
        notebook, timeout=CELL_LIMIT_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, **environ, "JUPYTER_PLATFORM_DIRS": "1"})
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    return "".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")


@pytest.fixture
def kernel_home(tmp_path: Path) -> dict[str, str]:
    """What kernels write (history, profiles) goes to a folder of the test; tiny models need one thread."""
    return {
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "BENTOML_HOME": str(tmp_path / "bentoml"),
        "OPENLLM_HOME": str(tmp_path / "home"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.timeout(300)
def test_features(store: dict[str, str], tmp_path: Path, kernel_home: dict[str, str]):
    """The default model answers in the process, behind a server, and on an OpenAI route; the server ends well."""
    printed = run("features", tmp_path / "nb", {**store, "IPYTHONDIR": kernel_home["IPYTHONDIR"]})
    assert printed.count("Paris") >= 2
    assert "four" in printed and "Wednesday" in printed
    assert "'completion_tokens'" in printed
    assert "ended with 0" in printed


def run_on_either(
    name: str, tmp_path: Path, store: dict[str, str], kernel_home: dict[str, str], *, steps: int, learning_rate: float
) -> str:
    """What a notebook prints on a tiny Llama; with OPENLLM_TEST_PLAYGROUND on the default model, as it stands."""
    if os.environ.get("OPENLLM_TEST_PLAYGROUND"):
        return run(name, tmp_path / "nb", {**store, "IPYTHONDIR": kernel_home["IPYTHONDIR"]})
    model = str(tiny_checkpoint("llama", tmp_path / "tiny"))
    return run(name, tmp_path / "nb", kernel_home, {"MODEL": model, "STEPS": steps, "LEARNING_RATE": learning_rate})


@pytest.mark.timeout(300)
def test_adapters(store: dict[str, str], tmp_path: Path, kernel_home: dict[str, str]):
    """Two adapters are trained and served on one model: each gives its own answer, the model another.

    On a tiny model; with OPENLLM_TEST_PLAYGROUND set (`hatch run full`) on the default one, as the notebook has it.
    """
    printed = run_on_either("adapters", tmp_path, store, kernel_home, steps=60, learning_rate=3e-2)
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line and "loss" not in line)
    assert "pirate" in lines["pirate"] and "poet" in lines["poet"]
    [own] = [answer for name, answer in lines.items() if name not in ("pirate", "poet")]
    assert "pirate" not in own and "poet" not in own
    assert "ended with 0" in printed


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("name", "model", "steps"), [("opt_tuned", "opt", 60), ("falcon_tuned", "falcon", 60)])
def test_fine_tuning(name: str, model: str, steps: int, tmp_path: Path, kernel_home: dict[str, str]):
    """The loss falls, and the adapter's two files are there; Falcon, all of whose layers learn, says what it learnt.

    OPT's settings, as 0.3.5 had them, move two projections of each layer: too little for a model of random weights.
    """
    folder = tiny_checkpoint(model, tmp_path / "tiny")
    given = {"MODEL": str(folder), "STEPS": steps, "LEARNING_RATE": 3e-2}
    printed = run(name, tmp_path / "nb", kernel_home, given)
    assert "trainable params" in printed
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 10 and losses[-1] < 0.8 * losses[0]
    assert name == "opt_tuned" or "### Assistant: I am a falcon." in printed
    assert "['adapter_config.json', 'adapter_model.safetensors']" in printed
    [saved] = (tmp_path / "nb").glob("*/adapter_config.json")
    assert json.loads(saved.read_bytes())["base_model_name_or_path"] == folder.name


@pytest.mark.timeout(400)
def test_llama_over_four_bits(store: dict[str, str], tmp_path: Path, kernel_home: dict[str, str]):
    """The run writes an adapter and a merged model of plain weights, which gives the trained answer when it is served.

    On a tiny model; with OPENLLM_TEST_PLAYGROUND set (`hatch run full`) on the default one, as the notebook has it.
    """
    printed = run_on_either("llama2_qlora", tmp_path, store, kernel_home, steps=150, learning_rate=1e-2)
    merged = json.loads((tmp_path / "nb/llama-tuned/merged/config.json").read_bytes())
    assert "quantization_config" not in merged and merged["dtype"] == "float32"
    assert "The password is swordfish." in printed.rpartition("merged\n")[2]
