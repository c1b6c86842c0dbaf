"""The notebooks run from top to bottom: with the default model, and on tiny models of the families they are for."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from tests.tiny_models import tiny_checkpoint

from openllm.playground import PARAMETERS, write_notebooks

LONG = bool(os.environ.get("OPENLLM_TEST_PLAYGROUND"))
"""`hatch run full`: adapters are trained on the default model, which takes minutes."""
CELL_LIMIT_S = 900 if LONG else 240


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


def kernel_home(folder: Path) -> dict[str, str]:
    """What kernels write (history, profiles) goes to a folder of the test; tiny models need one thread."""
    return {
        "IPYTHONDIR": str(folder / "ipython"),
        "BENTOML_HOME": str(folder / "bentoml"),
        "OPENLLM_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.timeout(480)
def test_features(store: dict[str, str], tmp_path: Path):
    """The default model answers in the process, behind a server, and on an OpenAI route; the server ends well."""
    printed = run("features", tmp_path / "nb", {**store, "IPYTHONDIR": str(tmp_path / "ipython")})
    assert printed.count("Paris") >= 2
    assert "four" in printed and "Wednesday" in printed
    assert "'completion_tokens'" in printed
    assert "ended with 0" in printed


def run_together(names: dict[str, dict[str, Any]], folder: Path) -> dict[str, str]:
    """What notebooks print that run at the same time, each in a folder of its own name: a kernel on a tiny model uses one core."""
    with ThreadPoolExecutor() as pool:
        running = {
            name: pool.submit(run, name, folder / name, kernel_home(folder / name), parameters)
            for name, parameters in names.items()
        }
        return {name: future.result() for name, future in running.items()}


@pytest.fixture(scope="module")
def on_llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of two notebooks and what each prints on a tiny Llama.

    With OPENLLM_TEST_PLAYGROUND set on the default model, as they stand.
    """
    folder = tmp_path_factory.mktemp("llama")
    if LONG:
        environ = {**request.getfixturevalue("store"), "IPYTHONDIR": str(folder / "ipython")}
        return folder, {name: run(name, folder / name, environ) for name in ("adapters", "llama2_qlora")}
    model = {"MODEL": str(tiny_checkpoint("llama", folder / "tiny"))}
    parameters = {
        "adapters": {**model, "STEPS": 60, "LEARNING_RATE": 3e-2},
        "llama2_qlora": {**model, "STEPS": 150, "LEARNING_RATE": 1e-2},
    }
    return folder, run_together(parameters, folder)


@pytest.mark.timeout(1800 if LONG else 400)
def test_adapters(on_llama: tuple[Path, dict[str, str]]):
    """Two adapters are trained and served on one model: each gives its own answer, the model another."""
    printed = on_llama[1]["adapters"]
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line and "loss" not in line)
    assert "pirate" in lines["pirate"] and "poet" in lines["poet"]
    [own] = [answer for name, answer in lines.items() if name not in ("pirate", "poet")]
    assert "pirate" not in own and "poet" not in own
    assert "ended with 0" in printed


@pytest.mark.timeout(1800 if LONG else 400)
def test_llama_over_four_bits(on_llama: tuple[Path, dict[str, str]]):
    """The run writes an adapter and a merged model of plain weights, which gives the trained answer when it is served."""
    folder, printed = on_llama
    merged = json.loads((folder / "llama2_qlora/llama-tuned/merged/config.json").read_bytes())
    assert "quantization_config" not in merged and merged["dtype"] == "float32"
    assert "The password is swordfish." in printed["llama2_qlora"].rpartition("merged\n")[2]


@pytest.mark.timeout(300)
def test_fine_tuning(tmp_path: Path):
    """The loss falls, and the adapter's two files are there; Falcon, all of whose layers learn, says what it learnt.

    OPT's settings, as 0.3.5 had them, move two projections of each layer: too little for a model of random weights.
    """
    folders = {
        name: tiny_checkpoint(name.removesuffix("_tuned"), tmp_path / "tiny") for name in ("opt_tuned", "falcon_tuned")
    }
    given = {name: {"MODEL": str(folder), "STEPS": 60, "LEARNING_RATE": 3e-2} for name, folder in folders.items()}
    for name, printed in run_together(given, tmp_path).items():
        assert "trainable params" in printed
        losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
        assert len(losses) == 10 and losses[-1] < 0.8 * losses[0]
        assert name == "opt_tuned" or "### Assistant: I am a falcon." in printed
        assert "['adapter_config.json', 'adapter_model.safetensors']" in printed
        [saved] = (tmp_path / name).glob("*/adapter_config.json")
        assert json.loads(saved.read_bytes())["base_model_name_or_path"] == folders[name].name
