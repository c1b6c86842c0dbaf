"""A whole run: what it leaves in its folder, what it refuses, and the merged model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors import safe_open
from tests.openllm.finetune.conftest import MakeLLM, greedy, write_lines

import openllm
from openllm.finetune import Outcome, TrainingOptions, finetune, merge_adapter, training
from openllm_core.errors import InvalidDataset, InvalidSetting, OutOfMemory, UnsupportedFeature

ROWS = [{"prompt": "the quick", "completion": " brown fox"}, {"prompt": "she sells", "completion": " sea shells"}]
FAST = TrainingOptions(max_steps=40, learning_rate=2e-2, batch_size=2, rank=8, alpha=16, gradient_checkpointing=False)


def run(llm: openllm.LLM, folder: Path, *, rows: Any = ROWS, **given: Any) -> Outcome:
    file = write_lines(folder.parent / "examples.jsonl", rows)
    return finetune(llm, file, folder, **({"options": FAST} | given))


def with_adapter(llm: openllm.LLM, folder: Path) -> Any:
    return peft.PeftModel.from_pretrained(llm.load_model(dtype=torch.float32), str(folder))


def test_what_a_run_leaves(make_llm: MakeLLM, tmp_path: Path) -> None:
    """A safetensors adapter that peft loads as it is and that gives the trained answer, a record, and nothing else."""
    llm = make_llm()
    told: list[str] = []
    outcome = run(llm, tmp_path / "out", rows=[ROWS[0] | {"id": 1}, ROWS[1]], say=told.append)
    assert outcome.adapter == tmp_path / "out"
    names = {path.name for path in outcome.adapter.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "finetune.json"}
    with safe_open(str(outcome.adapter / "adapter_model.safetensors"), "pt") as file:
        assert all(".lora_" in name for name in file.keys())  # noqa: SIM118
    assert greedy(with_adapter(llm, outcome.adapter), llm.load_tokenizer(), "the quick") == " brown fox"
    assert "Keys that are not read: id." in told
    record = json.loads((outcome.adapter / "finetune.json").read_bytes())
    assert record["model"] == {"id": llm.resolved().model_id, "tag": llm.tag, "quantize": None}
    assert record["dataset"]["examples"] == 2
    assert record["settings"]["rank"] == 8
    assert record["result"]["steps"] == outcome.trained.steps == 40
    assert record["result"]["last_loss"] < record["result"]["first_loss"] / 4


def test_no_file_names_this_machine(make_llm: MakeLLM, tmp_path: Path) -> None:
    """An adapter is given away: neither where the base lies nor where it was trained stands in it."""
    outcome = run(make_llm(), tmp_path / "out")
    config = json.loads((outcome.adapter / "adapter_config.json").read_bytes())
    assert config["base_model_name_or_path"] == make_llm().resolved().model_id
    for path in outcome.adapter.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes()
        assert str(make_llm().resolved().path).encode() not in path.read_bytes()


def test_a_finished_or_other_folder_is_not_touched(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Another's files, a finished run, and a run begun otherwise are refused; --overwrite begins a run anew."""
    llm, out = make_llm(), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(InvalidSetting, match="is not empty"):
        run(llm, out)
    with pytest.raises(InvalidSetting, match="is not empty"):
        run(llm, out, overwrite=True)
    shutil.rmtree(out)
    first = run(llm, out)
    with pytest.raises(InvalidSetting, match="holds a finished adapter"):
        run(llm, out)
    longer = run(llm, out, options=TrainingOptions(max_steps=3, gradient_checkpointing=False), overwrite=True)
    assert (first.trained.steps, longer.trained.steps) == (40, 3)


def test_a_run_goes_on_only_as_it_began(make_llm: MakeLLM, tmp_path: Path) -> None:
    """After a stop: the same command goes on; other examples, settings or quantisation are named and refused."""
    llm, out = make_llm(), tmp_path / "out"

    class Stopped(Exception):
        pass

    def stop(text: str, done: float | None, total: float | None) -> None:
        if done and done > 0.5:
            raise Stopped

    with pytest.raises(Stopped):
        run(llm, out, progress=stop)
    assert not (out / "adapter_model.safetensors").exists()
    with pytest.raises(InvalidSetting, match=r"settings.learning_rate was 0.02, is 0.1"):
        run(llm, out, options=TrainingOptions(max_steps=40, learning_rate=0.1, gradient_checkpointing=False))
    with pytest.raises(InvalidSetting, match=r"dataset.sha256"):
        run(llm, out, rows=ROWS[:1])
    with pytest.raises(InvalidSetting, match=r"model.quantize was None, is 'int4'"):
        run(make_llm(quantize="int4"), out)
    told: list[str] = []
    outcome = run(llm, out, say=told.append)
    assert outcome.trained.resumed_from == 20
    assert "Going on from checkpoint-20." in told
    assert not (out / "checkpoints").exists()


def test_what_the_hint_says_helps_after_memory_ran_out(
    make_llm: MakeLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is too small is told with the flags that help, and the same folder takes the command with them."""
    llm, out = make_llm(), tmp_path / "out"

    class Full:
        def train(self, **given: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(training, "_trainer", lambda *given: Full())
        with pytest.raises(OutOfMemory, match="while training: CUDA out of memory") as caught:
            run(llm, out)
    assert "--batch-size 1" in str(caught.value.hint)
    smaller = TrainingOptions(max_steps=2, batch_size=1, gradient_checkpointing=False)
    assert run(llm, out, options=smaller).trained.steps == 2


def test_a_bad_line_is_told_before_anything_is_made(make_llm: MakeLLM, tmp_path: Path) -> None:
    """The output folder does not appear; the model is not even looked for."""
    with pytest.raises(InvalidDataset, match="line 2"):
        run(openllm.LLM("no/such-model"), tmp_path / "out", rows=[ROWS[0], {"prompt": "x"}])
    assert not (tmp_path / "out").exists()


def test_a_merged_model_is_one_of_its_own(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Trained over 4-bit weights, saved over the plain ones: a folder that loads without peft and answers as trained."""
    llm = make_llm(quantize="int4")
    outcome = run(llm, tmp_path / "out", merge=True)
    assert outcome.merged == tmp_path / "out/merged"
    config = json.loads((outcome.merged / "config.json").read_bytes())
    assert "quantization_config" not in config
    with safe_open(str(outcome.merged / "model.safetensors"), "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert not any("lora" in name for name in file.keys())  # noqa: SIM118
    assert kinds == {"F32"}  # the type of the base's files
    own = openllm.LLM(str(outcome.merged), store=llm.store_options)
    model = own.load_model(dtype=torch.float32)
    assert not isinstance(model, peft.PeftModel)
    assert greedy(model, own.load_tokenizer(), "the quick") == " brown fox"
    assert own.load_tokenizer().chat_template == llm.load_tokenizer().chat_template
    merged = model(torch.tensor([[5, 6, 7]])).logits
    apart = with_adapter(llm, outcome.adapter)(torch.tensor([[5, 6, 7]])).logits
    torch.testing.assert_close(merged, apart, rtol=1e-3, atol=1e-3)


def test_a_quantised_checkpoint_is_not_merged_into(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Refused before the training, which may take hours."""
    folder = shutil.copytree(make_llm().resolved().path, tmp_path / "gptq")
    config = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    llm = openllm.LLM(str(folder), store=make_llm().store_options)
    with pytest.raises(UnsupportedFeature, match="stored quantised"):
        run(llm, tmp_path / "out", merge=True)
    assert not (tmp_path / "out").exists()


def test_a_merge_replaces_the_last_one(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Whole or not at all: a merge that fails leaves the earlier folder as it was."""
    llm = make_llm()
    outcome = run(llm, tmp_path / "out", merge=True)
    assert outcome.merged is not None
    before = (outcome.merged / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ValueError, match="adapter_config"):  # PEFT's own: this folder is no adapter
        merge_adapter(llm, tmp_path, outcome.merged)
    assert (outcome.merged / "model.safetensors").stat().st_mtime_ns == before
    merge_adapter(llm, outcome.adapter, outcome.merged)
    assert (outcome.merged / "model.safetensors").stat().st_mtime_ns > before
    assert [path.name for path in outcome.adapter.iterdir() if path.name.startswith(".")] == []
    assert isinstance(transformers.AutoConfig.from_pretrained(str(outcome.merged)), transformers.LlamaConfig)
