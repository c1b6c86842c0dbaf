"""Training: the loss falls, the model gives the trained answer, and a run that was stopped ends as one that was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from tests.openllm.finetune.conftest import MakeLLM, greedy

from openllm.finetune import Example, TrainingOptions, train
from openllm.finetune.training import last_checkpoint

PAIRS = [("the quick", " brown fox"), ("she sells", " sea shells"), ("two cores", " one request")]
EXAMPLES = [Example(line=i, prompt=prompt, completion=answer) for i, (prompt, answer) in enumerate(PAIRS, 1)]
FAST = TrainingOptions(max_steps=40, learning_rate=3e-2, batch_size=3, gradient_checkpointing=False, save_every=10)


def prepared(make_llm: MakeLLM, name: str = "llama") -> tuple[Any, Any]:
    """The same adapter weights at each call."""
    torch.manual_seed(0)
    return make_llm(name).prepare_for_training(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.1)


def adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(("name", "steps"), [("opt", 40), ("falcon", 40), ("llama", 40), ("t5", 480)])
def test_the_trained_answers_are_given(make_llm: MakeLLM, tmp_path: Path, name: str, steps: int) -> None:
    """The loss falls to a small part of what it was, and each prompt gets its completion, and then the end."""
    model, tokenizer = prepared(make_llm, name)
    told: list[str] = []
    shares: list[float | None] = []
    done = train(
        model,
        tokenizer,
        EXAMPLES,
        tmp_path,
        options=attrs.evolve(FAST, max_steps=steps),
        progress=lambda text, done, total: shares.append(done),
        say=told.append,
    )
    assert (done.steps, done.resumed_from, done.cut) == (steps, 0, 0)
    assert done.last_loss < done.first_loss / 4
    assert [greedy(model, tokenizer, prompt) for prompt, _ in PAIRS] == [answer for _, answer in PAIRS]
    assert shares == sorted(shares) and shares[-1] == 1.0  # type: ignore[type-var]
    assert len(told) == 10 and told[-1].startswith(f"step {steps} of {steps}  loss ")


def test_a_stopped_run_ends_as_one_in_one_piece(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Weights, optimiser, rate, order and dropout go on: the adapter is the same to the last bit."""
    short = attrs.evolve(FAST, max_steps=12, save_every=4)
    whole, tokenizer = prepared(make_llm)
    train(whole, tokenizer, EXAMPLES * 3, options=short)

    class Killed(Exception):
        pass

    def stop(text: str, done: float | None, total: float | None) -> None:
        if done and done > 0.8:
            raise Killed

    first, _ = prepared(make_llm)
    with pytest.raises(Killed):
        train(first, tokenizer, EXAMPLES * 3, tmp_path / "parts", options=short, progress=stop)
    torn = tmp_path / "parts/checkpoint-12"  # as a kill in the middle of writing it leaves it
    torn.mkdir()
    (torn / "adapter_model.safetensors").write_bytes(b"half")
    second, _ = prepared(make_llm)
    done = train(second, tokenizer, EXAMPLES * 3, tmp_path / "parts", options=short)
    assert (done.resumed_from, done.steps) == (8, 12)
    expected = adapter_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in adapter_of(second).items())


def test_the_newest_whole_checkpoint(tmp_path: Path) -> None:
    """By number, not by name; what has no readable state is not one."""
    assert last_checkpoint(tmp_path) is None
    for step, state in ((90, "{}"), (100, "{}"), (110, '{"gl')):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text(state)
    found = last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-100"
    assert not (tmp_path / "checkpoint-110").exists()


def test_how_long_a_run_is(make_llm: MakeLLM, tmp_path: Path) -> None:
    """Epochs count examples over batches, accumulated; --max-steps overrules them."""
    model, tokenizer = prepared(make_llm)

    def steps(**options: Any) -> int:
        given = {"batch_size": 2, "learning_rate": 0.0, "gradient_checkpointing": False} | options
        return train(model, tokenizer, EXAMPLES, tmp_path / str(options), options=TrainingOptions(**given)).steps

    assert steps(epochs=2.0) == 4
    assert steps(epochs=2.0, accumulate=2) == 2
    assert steps(epochs=0.5) == 1
    assert steps(max_steps=3) == 3
