"""Making a GPTQ checkpoint: sample texts, groups that fit, what the store keeps, and errors of the process that makes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.openllm.backends.test_quantisation import checkpoint

from openllm import quantise
from openllm.quantise import Calibration, fitting_group, sample_texts
from openllm.serialisation import resolve
from openllm.serialisation.store import Store
from openllm_core.errors import CorruptModel, InvalidDataset, InvalidSetting, MissingDependency, OpenLLMError
from openllm_core.options import StoreOptions

HOW = Calibration(bits=4, group_size=32, texts=("some text", "more text"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with config, weights of 32 and 128 columns, and a tokenizer."""
    folder = tmp_path / "small"
    folder.mkdir()
    checkpoint(folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def options(tmp_path: Path) -> StoreOptions:
    """A store of its own."""
    return StoreOptions(home=str(tmp_path / "home"))


def program(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the process that makes a checkpoint run this instead; `order` and `out` are there."""
    head = "import json, pathlib, shutil, sys\norder = json.load(open(sys.argv[1])); out = pathlib.Path(order['out'])\n"
    real = subprocess.Popen

    def popen(command: list[str], **rest: Any) -> Any:
        return real(
            [sys.executable, "-c", head + text, next(word for word in command if word.endswith("order.json"))], **rest
        )

    monkeypatch.setattr(subprocess, "Popen", popen)


COPY = """
print(json.dumps({"layer": 1, "layers": 2}), flush=True)
for name in ("config.json", "model.safetensors", "tokenizer.json"):
    shutil.copy(pathlib.Path(order["source"]) / name, out / name)
config = json.loads((out / "config.json").read_text())
config["quantization_config"] = {"quant_method": "gptq", "bits": order["bits"], "group_size": order["group_size"]}
(out / "config.json").write_text(json.dumps(config))
"""


def test_the_checkpoint_is_kept_beside_the_model(
    model: Path, options: StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made stands in the store under a name and version of its own, is found by that name, and is made once."""
    program(COPY, monkeypatch)
    said: list[str] = []
    source = resolve(str(model), options=options)
    entry = quantise.quantise(source, HOW, options, progress=lambda text, done, total: said.append(text))
    assert entry.tag.startswith("pt-small-gptq:") and re.fullmatch(r".*-4bit-32g-[0-9a-f]{8}", entry.tag)
    assert "quantising small: layer 1 of 2" in said
    found = resolve("small-GPTQ", options=options)
    assert found.path == entry.path
    config = json.loads((found.path / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "gptq"
    program("raise SystemExit('run twice')", monkeypatch)
    assert quantise.quantise(source, HOW, options).tag == entry.tag


def test_other_samples_or_other_weights_make_another_checkpoint(
    model: Path, options: StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of other texts, or before a folder was trained on, is never handed back."""
    program(COPY, monkeypatch)
    source = resolve(str(model), options=options)
    first = quantise.quantise(source, HOW, options)
    other = quantise.quantise(source, Calibration(bits=4, group_size=32, texts=("other text",)), options)
    later = (model / "model.safetensors").stat().st_mtime_ns + 10**9
    os.utime(model / "model.safetensors", ns=(later, later))
    trained = quantise.quantise(resolve(str(model), options=options), HOW, options)
    assert len({first.tag, other.tag, trained.tag}) == 3
    assert quantise.quantise(resolve(str(model), options=options), HOW, options).tag == trained.tag


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("raise SystemExit('no such layer')", CorruptModel, "small cannot be quantised: no such layer"),
        (
            f"print(json.dumps({{'error': {MissingDependency('no gptqmodel', hint='pip').as_dict()!r}}})); sys.exit(1)",
            MissingDependency,
            "no gptqmodel",
        ),
    ],
)
def test_a_failure_leaves_nothing_behind(
    text: str,
    error: type[OpenLLMError],
    message: str,
    model: Path,
    options: StoreOptions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the process ends with becomes one error; the store lists nothing new and its staging folder is empty."""
    program(text, monkeypatch)
    with pytest.raises(error, match=message):
        quantise.quantise(resolve(str(model), options=options), HOW, options)
    store = Store(options)
    assert store.entries() == []
    assert not list(store.models.glob(".staging/*/*"))


def test_what_is_written_meanwhile_lies_on_the_stores_disk(
    model: Path, options: StoreOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes do not belong into /tmp: the process' temporary folder is one of the store, and goes with it."""
    program("import os, tempfile; raise SystemExit(f'{tempfile.gettempdir()} {os.getcwd()}')", monkeypatch)
    with pytest.raises(CorruptModel) as caught:
        quantise.quantise(resolve(str(model), options=options), HOW, options)
    temporary, working = caught.value.message.partition(": ")[2].split()
    staging = Store(options).home / ".staging"
    assert Path(temporary).parent == Path(working).parent == staging
    assert not list(staging.glob("*/"))


RUN = """
import sys
from openllm import quantise
from openllm.serialisation import resolve
from openllm_core.options import StoreOptions
options = StoreOptions(home=sys.argv[2])
how = quantise.Calibration(bits=4, group_size=32, texts=("some text",))
quantise.quantise(resolve(sys.argv[1], options=options), how, options)
"""
SLEEP = """
import os, pathlib, time
pathlib.Path(os.environ["PID_FILE"] + ".new").write_text(str(os.getpid()))
os.replace(os.environ["PID_FILE"] + ".new", os.environ["PID_FILE"])
time.sleep(60)
"""


def test_a_killed_command_leaves_no_process_and_no_files(model: Path, options: StoreOptions, tmp_path: Path) -> None:
    """After kill -9 the process that works for it ends too, and the next use of the store frees what both wrote."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow/gptqmodel.py").write_text(SLEEP)
    file = tmp_path / "pid"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "shadow"), "PID_FILE": str(file)}
    command = [sys.executable, "-c", RUN, str(model), str(options.home)]
    with subprocess.Popen(command, env=environ) as killed:
        wait_for(file.exists)
        killed.send_signal(signal.SIGKILL)
    worker = Path(f"/proc/{file.read_text()}/cmdline")
    wait_for(lambda: not worker.exists() or b"gptq" not in worker.read_bytes())
    with Store(options).staging() as own:
        assert list(own.parent.glob("*/")) == [own]


def wait_for(ready: Callable[[], bool]) -> None:
    """Until it is so; within half a minute."""
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(("asked", "fits"), [(128, 32), (32, 32), (16, 16), (-1, -1)])
def test_groups_divide_every_layer(asked: int, fits: int, model: Path) -> None:
    """The group is the largest, up to the one asked for, that divides the rows of every layer; else a whole row."""
    assert fitting_group(model, asked) == fits


def test_a_quantised_model_is_not_quantised_again(tmp_path: Path) -> None:
    """A GPTQ checkpoint as the source is refused."""
    checkpoint(tmp_path, {"quant_method": "gptq", "bits": 4, "group_size": 64})
    with pytest.raises(InvalidSetting, match="is quantised already: gptq, 4 bits, groups of 64"):
        fitting_group(tmp_path, 128)


def test_samples_of_plain_text_are_paragraphs_put_together(tmp_path: Path) -> None:
    """Short paragraphs share a sample, long ones are cut, empty ones do not count."""
    file = tmp_path / "calibration.txt"
    file.write_text("one\n\ntwo\n\n\n\n" + "x" * 5000)
    first, second = sample_texts(file)
    assert first.split() == ["one", "two"] and second == "x" * quantise.SAMPLE_CHARACTERS


def test_samples_of_json_lines_are_those_of_finetune(tmp_path: Path) -> None:
    """text, prompt with completion, and messages each give one sample."""
    file = tmp_path / "calibration.jsonl"
    lines = [{"text": "a"}, {"prompt": "b", "completion": "c"}, {"messages": [{"role": "user", "content": "d"},
             {"role": "assistant", "content": "e"}]}]  # fmt: skip
    file.write_text("\n".join(map(json.dumps, lines)))
    assert sample_texts(file) == ("a", "bc", "d\ne")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_file_without_text_is_refused(content: bytes, tmp_path: Path) -> None:
    """An empty file, or one that is no text, is refused before a model is looked for."""
    file = tmp_path / "calibration.txt"
    file.write_bytes(content)
    with pytest.raises(InvalidDataset):
        sample_texts(file)


def test_the_process_without_gptqmodel_names_the_extra(
    model: Path, options: StoreOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where gptqmodel is not installed, the real process says so and names the extra."""
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "gptqmodel.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    with pytest.raises(MissingDependency, match="gptqmodel") as caught:
        quantise.quantise(resolve(str(model), options=options), HOW, options)
    assert caught.value.hint == 'pip install "openllm[gptq]"'
    shutil.rmtree(shadow)
