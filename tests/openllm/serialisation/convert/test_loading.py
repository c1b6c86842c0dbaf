"""`load_model` and `load_tokenizer`: the transformers objects of an LLM, without a tag to name."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from tests.openllm.serialisation import small
from tests.tiny_models import tiny_checkpoint

import openllm
from openllm import serialisation
from openllm_core.errors import CorruptModel


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_model_and_tokenizer_of_an_llm(tmp_path: Path, name: str) -> None:
    """Causal and sequence-to-sequence models load from their folder, with what is handed on; padding is on the left."""
    llm = openllm.LLM(str(tiny_checkpoint(name, tmp_path)), store=small.options(tmp_path / "home"))
    model = serialisation.load_model(llm, dtype=torch.float32)
    tokenizer = serialisation.load_tokenizer(llm)
    assert tokenizer.padding_side == tokenizer.truncation_side == "left"
    assert llm.load_tokenizer(padding_side="right").padding_side == "right"
    assert next(model.parameters()).dtype == torch.float32
    made = model.generate(**tokenizer("the quick", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert made.shape[0] == 1 and made.shape[1] > 1


def test_they_take_no_tag() -> None:
    """What they load is the LLM's own model: `llm.tag` names it."""
    for function in (serialisation.load_model, serialisation.load_tokenizer):
        assert "tag" not in inspect.signature(function).parameters


def test_a_model_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    """A folder that cannot be served cannot be loaded either."""
    folder = small.model_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"short")
    with pytest.raises(CorruptModel):
        serialisation.load_model(openllm.LLM(str(folder), store=small.options(tmp_path / "home")))
