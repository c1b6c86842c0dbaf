"""`openllm models` and `openllm import`: what can be served, what is here, and how it gets here."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from tokenizers import Tokenizer, models

from openllm.cli.output import size_text
from openllm_core.families import registry

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model as small as one can be: config, one weight, a tokenizer."""
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\0\0")
    Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(path / "tokenizer.json"))
    return path


def test_table_has_every_family_with_its_facts(run: Run):
    """Piped: one line per family, with architecture, default id, installation and runtime."""
    lines = run("models").stdout.splitlines()
    assert lines[0].split() == ["LLM", "Architecture", "Models", "Id", "Installation", "Runtime"]
    for spec in registry.all():
        line = next(line for line in lines if line.split()[:1] == [spec.name])
        assert spec.architectures[0] in line
        assert spec.default_id in line
        assert "pt" in line
        assert (" * " in line) is not spec.verified


def test_json_keeps_the_shape_of_earlier_releases(run: Run):
    """-o json: kebab names to architecture, model_id, backend and installation; `local` only when asked for. What is stored
    is always told."""
    data = json.loads(run("models", "-o", "json").stdout)
    assert data.pop("store") == []
    assert list(data) == [spec.name for spec in registry.all()]
    assert data["flan-t5"]["architecture"] == "T5ForConditionalGeneration"
    assert data["flan-t5"]["backend"] == ["pt"]
    assert "google/flan-t5-large" in data["flan-t5"]["model_id"]
    assert "sentencepiece" in data["llama"]["installation"]
    assert data["llama"]["cpu"] == data["llama"]["gpu"] == ["pt", "vllm"]
    assert data["flan-t5"]["cpu"] == ["pt"]
    for spec in registry.all():
        assert (data[spec.name]["unverified"] == []) is spec.verified is data[spec.name]["verified"]
    assert data["llama"]["unverified"] == ["prompt.variables"]
    assert json.loads(run("models", "-o", "json", "--show-available").stdout)["local"] == {}


def test_porcelain_is_one_name_a_line(run: Run):
    """-o porcelain: names for scripts."""
    assert run("models", "-o", "porcelain").stdout.split() == [spec.name for spec in registry.all()]


def test_one_family_shows_all_its_ids(run: Run):
    """A name, in any spelling, shows every id and how to start it; a wrong one names near ones, exit 66."""
    text = run("models", "flan_t5").stdout
    for model_id in registry.find("flan-t5").model_ids:
        assert model_id in text
    assert "openllm start flan-t5" in text
    assert re.search(r"CPU +pt\n", text)
    assert re.search(r"Unverified +prompt.variables\n", run("models", "llama").stdout)
    wrong = run("models", "flan-t6")
    assert (wrong.exit_code, wrong.stdout) == (66, "")
    assert "flan-t5" in wrong.stderr


def test_import_then_list(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What was imported is listed with path and size, is found again, and a second import says so."""
    first = json.loads(run("import", str(folder), "-o", "json").stdout)
    assert first["previously_setup"] is False
    assert Path(first["path"]).is_dir()
    assert first["size_bytes"] > 0
    again = run("import", str(folder), "-o", "json")
    assert json.loads(again.stdout) == first | {"previously_setup": True}
    assert run("import", str(folder), "-o", "porcelain").stdout == first["tag"] + "\n"

    monkeypatch.setenv("HOME", str(tmp_path))
    text = run("models", "--show-available").stdout
    assert "tiny-model" in text
    assert "~/bentoml/models/" in text
    assert size_text(first["size_bytes"]) in text
    assert "LLM" not in text
    data = json.loads(run("models", "--show-available", "-o", "json").stdout)
    assert [entry["tag"] for entry in data["store"]] == [first["tag"]]
    assert run("models", "--show-available", "-o", "porcelain").stdout == first["tag"] + "\n"


def test_an_empty_store_says_how_to_fill_it(run: Run):
    """Nothing here: stdout is empty, and the way on is told."""
    result = run("models", "--show-available")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "openllm start" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["./nowhere"], 66, "There is no folder ./nowhere."),
        (["flan-t6", "a/b"], 66, "flan-t5"),
        (["--no-such-flag"], 2, "--no-such-flag"),
    ],
)
def test_a_refused_import_names_cause_and_fix(run: Run, words: list[str], code: int, message: str):
    """One line, the documented code, stdout empty."""
    result = run("import", *words)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stdout == ""


def test_progress_without_a_terminal_is_one_line_a_step(run: Run, folder: Path):
    """Piped progress never moves the cursor; -q says nothing at all."""
    result = run("import", str(folder))
    assert "\r" not in result.stderr
    assert "\x1b" not in result.stderr
    assert run("import", str(folder), "-q").stderr == ""
