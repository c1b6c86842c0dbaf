"""`openllm finetune`: what is refused before anything heavy is loaded, and the words of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from openllm import finetune as package
from openllm.finetune.run import Outcome
from openllm.finetune.training import Trained

Run = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two examples, in the working directory, beside an empty store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the command hands to the run, which is not made; the examples are read as they would be."""
    seen: list[dict[str, Any]] = []

    def instead(llm: Any, dataset: Path, output: Path, **given: Any) -> Outcome:
        seen.append({"llm": llm, "dataset": dataset, "output": output} | given)
        given["progress"]("training", 0.5, 1)
        given["say"]("step 1 of 2  loss 2.000")
        trained = Trained(steps=2, resumed_from=1, first_loss=2.0, last_loss=0.5, cut=0)
        merged = output / "merged" if given["merge"] else None
        return Outcome(
            adapter=output, merged=merged, trained=trained, rank=given["options"].rank or 8, trainable=10, seconds=1.23
        )

    monkeypatch.setattr(package, "finetune", instead, raising=False)
    return seen


def test_what_is_typed_reaches_the_run(run: Run, file: Path, calls: list[dict[str, Any]]) -> None:
    """Flags of training, of the adapter and of the model; talk on stderr, the folder on stdout."""
    words = ["--epochs", "2", "--rank", "4", "--target-modules", "q_proj", "--target-modules", "v_proj", "--overwrite"]
    done = run("finetune", "opt", "--model-id", "x/y", "--dataset", "two.jsonl", "--output", "out", *words)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "out\n"
    assert "Loss 2.000 → 0.500 in 2 steps." in done.stderr
    assert "openllm start opt --model-id x/y --adapter-id out" in done.stderr
    [call] = calls
    options = call["options"]
    assert (options.epochs, options.rank, options.target_modules) == (2.0, 4, ("q_proj", "v_proj"))
    assert options.adapter_settings() == {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    assert (call["overwrite"], call["merge"]) == (True, False)


def test_the_line_that_serves_it(run: Run, file: Path, calls: list[dict[str, Any]]) -> None:
    """Names the model as it was named, a rank that needs to be allowed, or the merged folder as a folder."""
    words = ["finetune", "opt", "--dataset", str(file), "--output", "my adapter"]
    told = run(*words, "--model-id", "./base", "--rank", "128").stderr
    assert "openllm start opt --model-id ./base --adapter-id 'my adapter' --max-adapter-rank 128" in told
    assert "openllm start './my adapter/merged'" in run(*words, "--merge").stderr


def test_formats(run: Run, file: Path, calls: list[dict[str, Any]]) -> None:
    """JSON has every figure; porcelain is the folder to serve."""
    words = ["finetune", "--dataset", str(file), "--output", "out", "--merge", "--quantize", "int4"]
    data = json.loads(run(*words, "-o", "json").stdout)
    assert data == {
        "adapter": "out",
        "merged": "out/merged",
        "steps": 2,
        "resumed_from": 1,
        "first_loss": 2.0,
        "last_loss": 0.5,
        "cut": 0,
        "rank": 8,
        "trainable": 10,
        "seconds": 1.2,
    }
    assert run(*words, "-o", "porcelain", "-q").stdout == "out/merged\n"
    assert calls[0]["llm"].engine_options.quantize == "int4"


@pytest.mark.parametrize(
    ("device", "visible"), [("1", "1"), ("cuda:1", "1"), ("cpu", "-1"), ("auto", "2,3"), ("cuda", "2,3")]
)
def test_the_device_is_the_only_one_that_training_sees(
    run: Run, file: Path, calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, device: str, visible: str
) -> None:
    """`--device` names what torch will see of the machine; without one, what was visible stays so."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    done = run("finetune", "--dataset", str(file), "--output", "out", "--device", device)
    assert done.exit_code == 0, done.stderr
    assert os.environ["CUDA_VISIBLE_DEVICES"] == visible


def test_a_bad_line_ends_it_with_65(run: Run, file: Path) -> None:
    """One line names file, line and fault; no folder is made."""
    file.write_text('{"text": "a"}\n{"text": 1}\n')
    done = run("finetune", "--dataset", str(file), "--output", "out")
    assert done.exit_code == 65
    assert "two.jsonl, line 2: 'text' must be text, not a number." in done.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--output", "out"], "--dataset"),
        (["--dataset", "two.jsonl"], "--output"),
        (["--dataset", "absent.jsonl", "--output", "out"], "absent.jsonl"),
        (["--dataset", "two.jsonl", "--output", "out", "--epochs", "0"], "--epochs"),
        (["--dataset", "two.jsonl", "--output", "out", "--rank", "x"], "--rank"),
        (["--dataset", "two.jsonl", "--output", "out", "--rank", "513"], "--rank"),  # no server would take it
    ],
)
def test_wrong_usage(run: Run, file: Path, words: list[str], problem: str) -> None:
    """A missing or impossible flag is named, exit 2."""
    done = run("finetune", *words)
    assert done.exit_code == 2
    assert problem in done.stderr
