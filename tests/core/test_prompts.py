"""Prompt templates: plain substitution, nothing more."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm_core import ChatGLMConfig, DollyV2Config, FalconConfig, LlamaConfig, LLMConfig, MPTConfig, OPTConfig
from openllm_core.errors import InvalidRequest
from openllm_core.families import registry
from openllm_core.prompts import PromptTemplate, format_of, process_prompt, prompt_of


@given(st.text())
def test_an_instruction_stands_as_it_is(instruction: str) -> None:
    """Braces, field names and percent signs in a prompt are text."""
    assert PromptTemplate("Q: {instruction}\nA:").render(instruction) == f"Q: {instruction}\nA:"


def test_variables_fill_their_fields() -> None:
    """Given ones beat defaults; those without a field are ignored; a field's value is not read again."""
    template = PromptTemplate("{system}|{user}|{instruction}", {"system": "S"})
    assert template.variables == ["system", "user", "instruction"]
    assert template.required == ["user"]
    assert template.render("{user}", {"user": "{system}", "extra": "x"}) == "S|{system}|{user}"
    assert template.render("i", {"user": "u", "system": "T"}) == "T|u|i"


def test_a_missing_variable_is_named() -> None:
    """With all that are needed."""
    with pytest.raises(InvalidRequest, match=r"needs a, b; missing: b") as caught:
        PromptTemplate("{a}{b}{instruction}").render("x", {"a": "1"})
    assert caught.value.param == "b"


def test_the_instruction_is_no_variable() -> None:
    """It is the prompt itself."""
    with pytest.raises(InvalidRequest, match="the prompt itself"):
        PromptTemplate("{instruction}").render("x", {"instruction": "y"})


@pytest.mark.parametrize("text", ["{instruction.__class__}", "{instruction!r}", "{0}", "{}", "{ instruction }"])
def test_only_plain_names_are_fields(text: str) -> None:
    """Attribute access, conversions and numbers are left as text."""
    assert PromptTemplate(text).render("x") == text


def test_process_prompt_takes_a_template_a_text_or_a_function() -> None:
    """And leaves the prompt alone when told to."""
    assert process_prompt("p", "<{instruction}>") == "<p>"
    assert process_prompt("p", PromptTemplate("<{a}{instruction}>"), a="1") == "<1p>"
    assert process_prompt("p", str.upper) == "P"
    assert process_prompt("p", "<{instruction}>", use_prompt_template=False) == "p"
    with pytest.raises(ValueError, match="no template"):
        process_prompt("p")


# -- the prompts of families --------------------------------------------------------------------------------------


def made(name: str, prompt: str = "P", **values: Any) -> str:
    return prompt_of(registry.find(name), prompt, values)[0]


@pytest.mark.parametrize(
    ("name", "on"),
    [
        ("chatglm", False), ("dolly-v2", True), ("falcon", False), ("flan-t5", True), ("llama", False),
        ("mpt", True), ("opt", False), ("stablelm", False), ("baichuan", False), ("qwen", False),
    ],
)  # fmt: skip
def test_templates_apply_by_default_where_they_did(name: str, on: bool) -> None:
    """And where the caller asks for it, or does not."""
    assert (made(name) != "P") == on
    assert made(name, use_default_prompt_template=False) == "P"
    assert "P" in made(name, use_default_prompt_template=True, context="C", user_name="U", agent="A")


def test_a_gap_is_filled_in() -> None:
    """StarCoder's marker stands once, whether or not a template applies; text around it stays as it is."""
    assert made("starcoder", "a {x} <FILL_HERE> b") == "<fim-prefix>a {x} <fim-suffix> b<fim-middle>"
    assert made("starcoder", "plain") == "plain"
    assert made("opt", "a<FILL_HERE>b") == "a<FILL_HERE>b"
    with pytest.raises(InvalidRequest, match="2 times") as caught:
        made("starcoder", "<FILL_HERE><FILL_HERE>")
    assert caught.value.param == "prompt"


def test_past_turns_stand_in_the_prompt() -> None:
    """ChatGLM numbers them; without history, or with the template off, the prompt stays as it is."""
    history = [("Q{round}", "A0"), ("Q1", "A1")]
    text = made("chatglm", "{answer}", chat_history=history, use_default_prompt_template=True)
    assert text == ("[Round 0]\n问：Q{round}\n答：A0\n[Round 1]\n问：Q1\n答：A1\n[Round 2]\n问：{answer}\n答：")
    assert made("chatglm", use_default_prompt_template=True) == "P"
    assert made("chatglm", chat_history=history) == "P"


def test_llama_has_two_versions() -> None:
    """The second unless said otherwise."""
    assert made("llama", use_default_prompt_template=True).startswith("[INST] <<SYS>>\n")
    assert made("llama", use_default_prompt_template=True, use_llama2_prompt=False) == "P"
    assert made("llama", use_default_prompt_template=True, prompt_format="v1") == "P"
    assert made("llama", use_default_prompt_template=True, system_message="S").startswith("[INST] <<SYS>>\nS\n")
    with pytest.raises(InvalidRequest, match="v1, v2"):
        made("llama", use_default_prompt_template=True, prompt_format="v3")


@pytest.mark.parametrize(
    ("model_id", "values", "own", "form"),
    [
        ("mosaicml/mpt-7b-instruct", {}, {}, "instruct"),
        ("mosaicml/mpt-7b-Storywriter", {}, {}, "storywriter"),
        ("mosaicml/mpt-30b-chat", {}, {"prompt_type": "default"}, "chat"),
        ("mosaicml/mpt-7b", {}, {}, "default"),
        (None, {}, {}, "default"),
        ("mosaicml/mpt-7b-chat", {"prompt_type": "instruct"}, {"prompt_type": "storywriter"}, "instruct"),
        ("mosaicml/mpt-7b-chat", {}, {"prompt_type": "storywriter"}, "storywriter"),
        ("mosaicml/mpt-7b-chat", {"prompt_type": "poem"}, {}, "chat"),
    ],
)
def test_mpt_has_four_kinds(model_id: str | None, values: dict[str, str], own: dict[str, str], form: str) -> None:
    """What the caller says, else what the operator set, else by the model's id."""
    assert format_of(registry.find("mpt"), model_id=model_id, values=values, own=own) == form


def test_stablelm_wraps_tuned_models_alone() -> None:
    """The base models know no roles."""
    on = {"use_default_prompt_template": True}
    assert made("stablelm", **on).endswith("<|USER|>P<|ASSISTANT|>")
    assert made("stablelm", model_id="stabilityai/stablelm-base-alpha-3b", **on) == "P"


def test_a_configuration_makes_prompts() -> None:
    """Variables are used up, other values passed on."""
    config = FalconConfig()
    given = {"context": "C", "user_name": "U", "agent": "A", "use_default_prompt_template": True, "top_k": 3}
    assert config.sanitize_parameters("P", **given) == ("C\nU: P\nA:\n", {"top_k": 3}, {})
    with pytest.raises(InvalidRequest, match="context"):
        config.sanitize_parameters("P", use_default_prompt_template=True)
    assert LlamaConfig(use_llama2_prompt=True).sanitize_parameters("P")[0] == "P"
    assert MPTConfig(prompt_type="chat").sanitize_parameters("P", model_id="x")[0] == "P"


def test_answers_have_the_shape_callers_expect() -> None:
    """By family: a text, the first text, one of a pipeline, several formatted."""
    assert DollyV2Config().postprocess_generate("P", [{"generated_text": "x"}]) == "x"
    assert DollyV2Config().postprocess_generate("P", ["x"]) == "x"
    assert FalconConfig().postprocess_generate("P", ["x", "y"]) == "x"
    assert FalconConfig().postprocess_generate("P", "x") == "x"
    assert OPTConfig().postprocess_generate("P", ["x", "y"]) == "x\ny"
    assert OPTConfig().postprocess_generate("P", ["x"]) == "x"
    assert OPTConfig(format_outputs=True).postprocess_generate("P", ["x", "y"]) == "Generated result:\n- x\n- y"


def test_chatglm_keeps_the_history_when_told_to() -> None:
    """The caller's own list grows."""
    history = [("q", "a")]
    config = ChatGLMConfig(retain_history=True)
    prompt, _, kept = config.sanitize_parameters("P", chat_history=history)
    assert config.postprocess_generate(prompt, ("T", []), **kept) == "T"
    assert history == [("q", "a"), ("P", "T")]
    assert ChatGLMConfig().postprocess_generate("P", ("T", []), **kept) == "T"
    with pytest.raises(ValueError, match="no chat_history"):
        config.postprocess_generate("P", ("T", []))


def test_a_class_of_ones_own_leaves_answers_alone() -> None:
    """Unless it says otherwise."""

    class PlainConfig(LLMConfig):
        __config__ = {"default_id": "a", "model_ids": ["a"], "architecture": "A"}  # noqa: RUF012

    assert PlainConfig().sanitize_parameters("P", top_k=1) == ("P", {"top_k": 1}, {})
    assert PlainConfig().postprocess_generate("P", ["x"]) == ["x"]
