"""Environment variables of configuration fields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from openllm_core import LLMConfig
from openllm_core.config.env import EnvVarMixin, field_env_key, parse_value
from openllm_core.errors import InvalidSetting, MissingDependency


def test_names_have_no_model_in_them() -> None:
    """One variable means one field, whatever the family."""
    assert field_env_key("temperature", "generation") == "OPENLLM_GENERATION_TEMPERATURE"
    assert field_env_key("best_of", "sampling") == "OPENLLM_SAMPLING_BEST_OF"
    assert field_env_key("use_llama2_prompt") == "OPENLLM_USE_LLAMA2_PROMPT"


def test_names_with_a_model_in_them_are_not_read() -> None:
    """As they were before 0.3.0."""
    old = {"OPENLLM_OPT_GENERATION_TOP_K": "3", "OPENLLM_OPT_FORMAT_OUTPUTS": "true"}
    config = LLMConfig.for_model("opt", environ=old)
    assert (config["top_k"], config["format_outputs"]) == (15, False)
    assert "environment" not in config.sources.values()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.2", 0.2),
        ("3", 3),
        ("True", True),
        ("FALSE", False),
        ("None", None),
        ("null", None),
        ("[1, 2]", [1, 2]),
        ('"Word"', "Word"),
        ('["A", "b"]', ["A", "b"]),
    ],
)
def test_values_are_json(text: str, value: Any) -> None:
    """With Python's words for true, false and null as well; the case of text is kept."""
    assert parse_value("V", text) == value


@pytest.mark.parametrize("text", ["", "word", "0,2", "{", "nan"])
def test_anything_else_names_the_variable(text: str) -> None:
    """And says how to write it."""
    with pytest.raises(InvalidSetting) as caught:
        parse_value("OPENLLM_GENERATION_TOP_P", text)
    assert caught.value.param == "OPENLLM_GENERATION_TOP_P"
    assert "JSON" in caught.value.message


def test_env_gives_names_and_values() -> None:
    """`env["model_id"]` is a name; `env["model_id_value"]` the environment's value, else the argument."""
    env = EnvVarMixin("flan_t5", "vllm", model_id="a", environ={"OPENLLM_MODEL_ID": "b"})
    assert env["model_id"] == "OPENLLM_MODEL_ID"
    assert env["config"] == env.config == "OPENLLM_CONFIG"
    assert env["model_id_value"] == "b"
    assert env["backend_value"] == "vllm"
    assert env["quantize_value"] is None
    assert env["model_name"] == "flan_t5"
    assert len(env) == len(list(env)) == 5


@pytest.mark.parametrize("item", ["nope", "config_value", "model_name_value", "nope_value"])
def test_other_items_are_unknown(item: str) -> None:
    """Only what the environment can set has a value."""
    with pytest.raises(KeyError):
        EnvVarMixin("opt", environ={})[item]


def test_the_environment_is_read_at_each_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the object was made."""
    env = EnvVarMixin("opt")
    monkeypatch.setenv("OPENLLM_BACKEND", "vllm")
    assert env["backend_value"] == "vllm"
    monkeypatch.delenv("OPENLLM_BACKEND")
    assert env["backend_value"] == "pt"


def test_the_old_name_warns() -> None:
    """From the package and from the module; other names are missing."""
    import openllm_core
    from openllm_core.config import env

    with pytest.warns(DeprecationWarning, match="EnvVarMixin"):
        assert openllm_core.ModelEnv is EnvVarMixin
    with pytest.raises(AttributeError, match="nope"):
        env.nope  # noqa: B018


def test_a_family_says_how_it_is_started() -> None:
    """By its environment and, under the names of 0.3.5, by the package; an unknown family says nothing."""
    import openllm_core

    text = EnvVarMixin("flan_t5").start_docstring
    assert "openllm start flan-t5" in text and "google/flan-t5-xxl" in text
    assert text == openllm_core.START_FLAN_T5_COMMAND_DOCSTRING
    falcon = openllm_core.START_FALCON_COMMAND_DOCSTRING
    assert "einops, xformers" in falcon
    assert "--trust-remote-code" not in falcon  # transformers has the architecture now
    assert "--trust-remote-code" in openllm_core.START_CHATGLM_COMMAND_DOCSTRING
    assert EnvVarMixin("nope").start_docstring == ""
    with pytest.raises(AttributeError, match="START_NOPE"):
        openllm_core.START_NOPE_COMMAND_DOCSTRING  # noqa: B018


def test_module_is_the_backends_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the backend that the environment or the argument names; without openllm the error gives the pip line."""
    import openllm_core._bridges as bridges

    monkeypatch.setattr(bridges, "import_module", lambda name: SimpleNamespace(__name__=name))
    assert EnvVarMixin("opt", environ={}).module.__name__ == "openllm.backends.torch"
    assert EnvVarMixin("opt", environ={"OPENLLM_BACKEND": "vllm"}).module.__name__ == "openllm.backends.vllm"
    with pytest.raises(KeyError):
        _ = EnvVarMixin("opt", "nope", environ={}).module

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(bridges, "import_module", missing)
    with pytest.raises(MissingDependency) as refused:
        _ = EnvVarMixin("opt", environ={}).module
    assert refused.value.hint == "pip install openllm"
