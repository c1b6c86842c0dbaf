"""AutoConfig, CONFIG_MAPPING, the class of each family, and the program that writes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import openllm_core
from openllm_core import CONFIG_MAPPING, CONFIG_MAPPING_NAMES, AutoConfig, LLMConfig
from openllm_core.config import auto
from openllm_core.errors import UnknownModel
from openllm_core.families import registry, spec

ROOT = Path(__file__).resolve().parents[3]
V035 = json.loads((Path(__file__).parents[1] / "data" / "v035.json").read_text())
ELEVEN = [
    "chatglm",
    "dolly_v2",
    "falcon",
    "flan_t5",
    "gpt_neox",
    "llama",
    "mpt",
    "opt",
    "stablelm",
    "starcoder",
    "baichuan",
]


def test_the_mapping_has_the_eleven_first() -> None:
    """In 0.3.5's order, with 0.3.5's classes; ours follow."""
    assert list(CONFIG_MAPPING)[:11] == list(CONFIG_MAPPING_NAMES)[:11] == ELEVEN
    assert {name: CONFIG_MAPPING_NAMES[name] for name in ELEVEN} == {
        name: V035["families"][name.replace("_", "-")]["config_class"] for name in ELEVEN
    }
    assert len(CONFIG_MAPPING) == len(CONFIG_MAPPING_NAMES) == len(list(CONFIG_MAPPING.items()))
    assert "smollm" in CONFIG_MAPPING
    assert repr(CONFIG_MAPPING).startswith("CONFIG_MAPPING(chatglm, ")


@pytest.mark.parametrize(("name", "class_name"), CONFIG_MAPPING_NAMES.items())
def test_every_family_has_a_class(name: str, class_name: str) -> None:
    """Importable from the package, made without arguments, the one that the family's name leads to."""
    made = getattr(openllm_core, class_name)
    assert made is CONFIG_MAPPING[name]
    config = made()
    assert config.family is registry.find(name)
    assert config.flat() == LLMConfig.for_model(name).flat()
    assert type(LLMConfig.for_model(name)) is type(AutoConfig.for_model(name)) is made
    for field in config.own:
        assert getattr(config, field) == config[field]
    assert config["serialisation"] == "safetensors"
    with pytest.raises(KeyError):
        config["use_pipeline"]


def test_requirements_of_a_family() -> None:
    """None where there are none, as in 0.3.5."""
    assert openllm_core.DollyV2Config()["requirements"] is None
    assert openllm_core.FalconConfig()["requirements"] == ["einops", "xformers"]


@pytest.mark.parametrize("name", ["flan-t5", "flan_t5", "FlanT5", "FlanT5Config"])
def test_names_in_any_spelling(name: str) -> None:
    """Kebab, snake and class names."""
    assert AutoConfig.infer_class_from_name(name) is openllm_core.FlanT5Config
    assert AutoConfig.for_model(name, top_k=3)["top_k"] == 3


@pytest.mark.parametrize(
    ("name", "key"),
    [("chat_glm", "chatglm"), ("stable_lm", "stablelm"), ("star_coder", "starcoder"), ("gpt_neo_x", "gpt_neox"),
     ("GPTNeoX", "gpt_neox"), ("facebook/opt-125m", "opt")],
)  # fmt: skip
def test_further_names(name: str, key: str) -> None:
    """What 0.3.5 took for class names, and hub ids."""
    assert AutoConfig.infer_class_from_name(name) is CONFIG_MAPPING[key]


def test_it_is_not_made_itself() -> None:
    """It chooses."""
    with pytest.raises(EnvironmentError, match="for_model"):
        AutoConfig()


def test_a_wrong_name_lists_the_families_and_near_ones() -> None:
    """As a ValueError; in the mapping it is a KeyError."""
    with pytest.raises(ValueError, match="chatglm, dolly_v2") as caught:
        AutoConfig.for_model("lama")
    assert isinstance(caught.value, UnknownModel)
    assert "llama" in (caught.value.hint or "")
    with pytest.raises(UnknownModel) as caught:
        AutoConfig.for_model("qqqqqq")
    assert "openllm models" in (caught.value.hint or "")
    with pytest.raises(KeyError):
        CONFIG_MAPPING["lama"]
    assert "lama" not in CONFIG_MAPPING


def test_a_class_of_ones_own_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once; then its name is known."""
    mapping = auto._ConfigMapping(CONFIG_MAPPING_NAMES)
    monkeypatch.setattr(auto, "CONFIG_MAPPING", mapping)

    class MineConfig(LLMConfig):
        __config__ = {"default_id": "a", "model_ids": ["a"], "architecture": "A"}  # noqa: RUF012

    mapping.register("my-family", MineConfig)
    assert list(mapping)[-1] == "my_family"
    assert type(AutoConfig.for_model("my_family")) is MineConfig
    for taken in ("my-family", "opt"):
        with pytest.raises(ValueError, match="already"):
            mapping.register(taken, MineConfig)


def test_a_family_of_another_package_needs_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it get ours by taking a family's name."""
    data = {"name": "third", "compat_family": "llama", "architectures": ["A"], "default_id": "a", "model_ids": ["a"]}
    third = spec.from_data({**data, "sources": {"*": "x"}, "generation": {"top_k": 7}}, "here")
    known = registry.get
    monkeypatch.setattr(registry, "get", lambda name: third if name == "third" else known(name))
    config = AutoConfig.for_model("third")
    assert (type(config), config["top_k"], list(config.own)) == (LLMConfig, 7, ["use_llama2_prompt"])
    fake = spec.from_data({**data, "name": "opt", "sources": {"*": "x"}}, "here")
    assert type(LLMConfig.for_model(fake)) is LLMConfig


def test_the_exports_are_fresh() -> None:
    """The classes and the lines that export them follow the families' files."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/gen_family_exports.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
