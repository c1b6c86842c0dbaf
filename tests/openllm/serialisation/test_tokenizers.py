"""Which tokenizer a folder has: tokenizer.json here, Python code alone in the host, or none."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from openllm.python_tokenizer import HostTokenizer
from openllm.serialisation import formats, open_tokenizer
from openllm_core.errors import CorruptModel, EngineUnavailable

from . import small


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model without a tokenizer.json."""
    path = small.model_folder(tmp_path / "m")
    (path / "tokenizer.json").unlink()
    return path


def configure(folder: Path, **facts: Any) -> None:
    """Write tokenizer_config.json."""
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def test_a_tokenizer_json_is_used_here(tmp_path: Path) -> None:
    """Even where the model has a class of its own too."""
    folder = small.model_folder(tmp_path / "m")
    configure(folder, auto_map={"AutoTokenizer": ["tokenization_m.Own", None]})
    assert type(open_tokenizer(folder, trust_remote_code=True)).__name__ == "Tokenizer"


def test_a_class_of_the_models_own_runs_in_the_host(folder: Path) -> None:
    """With what its JSON files say already known here; encoding and decoding are not to be had here."""
    configure(
        folder,
        auto_map={"AutoTokenizer": ["tokenization_m.Own", None]},
        eos_token={"content": "</s>"},
        chat_template="{{ messages }}",
    )
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    found = open_tokenizer(folder, trust_remote_code=True)
    assert isinstance(found, HostTokenizer) and found.folder == str(folder)
    assert (found.eos_token_ids, found.chat_template) == ((2, 7), "{{ messages }}")
    assert found.special_tokens == {"eos_token": "</s>"} and found.max_token_bytes is None
    with pytest.raises(EngineUnavailable):
        found.encode("a")
    with pytest.raises(EngineUnavailable):
        found.decode([1])


def test_untrusted_it_does_not(folder: Path) -> None:
    """The folder then has no tokenizer."""
    configure(folder, auto_map={"AutoTokenizer": ["tokenization_m.Own", None]})
    with pytest.raises(CorruptModel, match="no tokenizer"):
        open_tokenizer(folder)


def test_a_class_without_a_vocabulary_runs_in_the_host(folder: Path) -> None:
    """ByT5's ids are bytes: it has no file to convert, and needs no trust."""
    configure(folder, tokenizer_class="ByT5Tokenizer")
    assert isinstance(open_tokenizer(folder), HostTokenizer)


@pytest.mark.parametrize(("param", "in_host"), [(formats.PYTHON_ONLY, True), (None, False)])
def test_a_slow_tokenizer_that_cannot_be_converted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, param: str | None, in_host: bool
) -> None:
    """Sound but slow by nature: the host uses it. Broken: the error says so before anything is loaded."""
    (folder / "vocab.json").write_text("{}")
    error = json.dumps(CorruptModel("told by the child", param=param).as_dict())
    child = tmp_path / "python"
    child.write_text(f"#!/bin/sh\necho '{error}'\nexit 1\n")
    child.chmod(child.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(formats.sys, "executable", str(child))
    if in_host:
        assert isinstance(open_tokenizer(folder), HostTokenizer)
    else:
        with pytest.raises(CorruptModel, match="told by the child"):
            open_tokenizer(folder)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_configuration_is_named(folder: Path, text: str) -> None:
    """And is no traceback."""
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(CorruptModel, match=r"tokenizer_config\.json of m is not"):
        open_tokenizer(folder)
