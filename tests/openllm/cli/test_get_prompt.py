"""`openllm get-prompt`: the prompt a model would get, by its own chat template or its family's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from openllm_core.families import registry
from openllm_core.prompts import prompt_of

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder as far as prompts go."""
    path = tmp_path / "tiny-model"
    path.mkdir()
    (path / "config.json").write_text('{"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}')
    template = (
        "{{ bos_token }}{% if loud %}!{% endif %}<{{ messages[0].content }}>{% if add_generation_prompt %}A:{% endif %}"
    )
    (path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "chat_template": template}))
    return path


def test_a_local_model_renders_with_its_own_template(run: Run, folder: Path):
    """The server's rendering, special tokens and opened answer included; options are the template's variables."""
    result = run("get-prompt", str(folder), "2 < 3", "-o", "porcelain")
    assert result.stdout == "<s><2 < 3>A:"
    assert "the model's own chat template" in result.stderr
    loud = run("get-prompt", str(folder), "x", "--opt", "loud=true", "--opt", "add_generation_prompt=false")
    assert loud.stdout == "<s>!<x>\n"
    data = json.loads(run("get-prompt", str(folder), "x", "-o", "json").stdout)
    assert data["prompt"] == "<s><x>A:"


def test_a_local_model_without_a_template_takes_its_familys(run: Run, folder: Path):
    """What no chat template says, the family does; a named format is the family's in any case."""
    expected, _ = prompt_of(registry.find("flan-t5"), "x", {"use_default_prompt_template": True})
    assert run("get-prompt", str(folder), "x", "--format", "default").stdout == expected + "\n"
    (folder / "tokenizer_config.json").write_text("{}")
    assert run("get-prompt", str(folder), "x").stdout == expected + "\n"


@pytest.mark.parametrize("name", [spec.name for spec in registry.all() if spec.prompt.formats])
def test_every_family_with_formats_renders_each(run: Run, name: str):
    """Each format of each family gives the prompt that its facts say, flan-t5 included."""
    spec = registry.find(name)
    for form in spec.prompt.formats:
        variables = {key: f"<{key}>" for key in spec.prompt_format(form).required}
        words = [word for key, value in variables.items() for word in ("--opt", f"{key}={value}")]
        result = run("get-prompt", name, "What is 1+1?", "--format", form, *words, "-o", "porcelain")
        assert result.exit_code == 0, result.stderr
        values = {**variables, "use_default_prompt_template": True, "prompt_format": form}
        assert result.stdout == prompt_of(spec, "What is 1+1?", values)[0]
        assert "What is 1+1?" in result.stdout


def test_an_id_of_the_family_chooses_its_format(run: Run):
    """An instruct model gets the instruct format without being asked for it."""
    result = run("get-prompt", "mosaicml/mpt-7b-instruct", "x")
    assert "### Instruction:\nx" in result.stdout
    assert "family mpt, format instruct" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["llama", "x"], 2, "--format v1|v2"),
        (["mpt", "x"], 2, "--format default|instruct|chat|storywriter"),
        (["llama", "x", "--format", "v3"], 2, "no prompt format 'v3'; it has: v1, v2"),
        (["falcon", "x", "--opt", "context=c"], 2, "--opt user_name=TEXT --opt agent=TEXT"),
        (["falcon", "x", "--opt", "context"], 2, "--opt: 'context' is not KEY=VALUE."),
        (["flan-t6", "x"], 66, "flan-t5"),
        (["qwen", "x"], 66, "openllm import qwen"),
        (["nobody/nothing", "x"], 66, "openllm import nobody/nothing"),
        (["./nowhere", "x"], 66, "There is no folder ./nowhere."),
        (["llama"], 2, "TEXT"),
    ],
)
def test_a_refusal_names_what_is_missing(run: Run, words: list[str], code: int, message: str):
    """One line with the cause, one with the way on, nothing on stdout."""
    result = run("get-prompt", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_what_the_template_does_not_use_is_told(run: Run):
    """An option without a place in the template is named, not swallowed."""
    result = run("get-prompt", "flan-t5", "x", "--opt", "mood=good")
    assert result.exit_code == 0
    assert "--opt mood" in result.stderr


def test_a_template_that_refuses_is_told_in_one_line(run: Run, folder: Path):
    """What the model's template raises is the message."""
    config = {"chat_template": "{{ raise_exception('only images, please') }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    result = run("get-prompt", str(folder), "x")
    assert result.exit_code == 2
    assert "only images, please" in result.stderr
