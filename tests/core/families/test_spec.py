"""Reading a family file: facts are checked, each has a source."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from openllm_core.errors import ConfigError, InvalidRequest
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec, from_data, from_toml

GOOD: dict[str, Any] = {
    "name": "my-model",
    "compat_family": "llama",
    "architectures": ["MyForCausalLM"],
    "default_id": "me/my-7b",
    "model_ids": ["me/my-7b"],
    "sources": {"*": "unverified", "generation": "my-model 1.0, config.json", "generation.top_p": "our choice"},
}


def test_a_minimal_file_is_enough() -> None:
    """Name, compat family, architecture, ids and sources; the rest has defaults."""
    family = from_data(GOOD, "my.toml")
    assert family.model_name == "my_model"
    assert family.backends == ["pt", "vllm"]
    assert family.prompt_template is None
    assert family.trust_remote_code is False


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"name": 3}, "name"),
        ({"nmae": "x"}, "nmae"),
        ({"model_ids": []}, "model_ids"),
        ({"default_id": "me/other"}, "default_id"),
        ({"default_for": ["OtherForCausalLM"]}, "default_for"),
        ({"generation": {"temperature": 5}}, "temperature"),
        ({"generation": {"temprature": 1}}, "temprature"),
        ({"sampling": {"n": "2"}}, "n"),
        ({"own_fields": {"x": {"type": "list", "default": 1}}}, "own_fields.x.type"),
        ({"model_type": "diffusion"}, "model_type"),
    ],
)
def test_a_wrong_fact_names_file_and_place(change: dict[str, Any], param: str) -> None:
    """So that whoever adds a family finds it."""
    with pytest.raises(ConfigError) as caught:
        from_data({**GOOD, **change}, "my.toml")
    assert caught.value.param == param
    assert caught.value.message.startswith("my.toml: ")


def test_a_missing_fact_is_named() -> None:
    """`sources` is one that cannot be left out."""
    with pytest.raises(ConfigError, match="sources is required"):
        from_data({key: value for key, value in GOOD.items() if key != "sources"}, "my.toml")


def test_broken_toml_names_the_file() -> None:
    """With the parser's place."""
    with pytest.raises(ConfigError, match=r"my\.toml: .*line 1"):
        from_toml("name = =\n", "my.toml")


def test_the_nearest_source_counts() -> None:
    """Of the fact, else of its table, else of the file."""
    family = from_data(GOOD, "my.toml")
    assert family.source_of("generation.top_p") == "our choice"
    assert family.source_of("generation.top_k") == "my-model 1.0, config.json"
    assert family.source_of("default_id") == "unverified"
    assert not family.verified


def test_a_family_with_checked_sources_is_verified() -> None:
    """One unverified fact is enough to say so."""
    assert registry.find("opt").verified
    assert not registry.find("llama").verified  # its system message has no checked source


def test_a_file_without_a_rest_is_unverified_where_silent() -> None:
    """No "*" means that nothing is known of the others."""
    assert from_data({**GOOD, "sources": {"name": "x"}}, "f").source_of("url") == "unverified"


def rendered(name: str, prompt: str = "Why?", form: str | None = None, **variables: str) -> str:
    family: FamilySpec = registry.find(name)
    template = family.prompt_format(form or family.prompt.default_format)
    return template.render(prompt, variables)


def test_prompts_of_the_eleven() -> None:
    """The structure each family was trained on, or the bare instruction."""
    for bare in ("chatglm", "gpt-neox", "opt", "starcoder", "baichuan", "mpt"):
        assert rendered(bare) == "Why?"
    assert rendered("flan-t5") == "Answer the following question:\nQuestion: Why?\nAnswer:"
    assert rendered("falcon", context="C", user_name="U", agent="A") == "C\nU: Why?\nA:\n"
    assert rendered("dolly-v2").endswith("\n### Instruction:\nWhy?\n### Response:\n")
    assert rendered("mpt", form="instruct") == rendered("dolly-v2")
    assert rendered("llama", form="v1") == "Why?"
    assert rendered("llama").startswith("[INST] <<SYS>>\nYou are a helpful")
    assert rendered("llama").endswith("\n<<SYS>>\n\nWhy?\n[/INST] ")
    assert rendered("stablelm", system_prompt="S") == "S<|USER|>Why?<|ASSISTANT|>"


def test_an_unknown_format_names_those_there_are() -> None:
    """As the command line shows it."""
    with pytest.raises(InvalidRequest, match="it has: v1, v2"):
        registry.find("llama").prompt_format("v3")
    with pytest.raises(InvalidRequest, match="it has: none"):
        registry.find("qwen").prompt_format("x")


def test_a_conversation_gives_no_variables() -> None:
    """Where a template needs some, the family's own values for a conversation stand in; an instruction still needs them."""
    falcon = registry.find("falcon")
    assert falcon.prompt_template is not None and falcon.prompt_template.required == ["context", "user_name", "agent"]
    assert falcon.chat_template is not None
    assert falcon.chat_template.render("Why?") == "\nUser: Why?\nAssistant:\n"
    assert registry.find("smollm").chat_template is None
    bare = attrs.evolve(falcon, prompt=attrs.evolve(falcon.prompt, chat_variables={"context": ""}))
    assert bare.chat_template is None


def test_end_of_text_of_a_family() -> None:
    """One id, several or none."""
    dolly = registry.find("dolly-v2")
    assert dolly.eos_token_ids == {50277}
    assert attrs.evolve(dolly, generation={"eos_token_id": [1, 2]}).eos_token_ids == {1, 2}
    assert registry.find("opt").eos_token_ids == frozenset()
