"""Prompt templates: plain substitution, nothing more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openllm_core.errors import InvalidRequest
from openllm_core.prompts import PromptTemplate, process_prompt


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
