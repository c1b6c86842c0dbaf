"""Finding a family by name, hub id or architecture; the facts of the eleven; families of other packages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from openllm_core.errors import ConfigError, UnknownModel
from openllm_core.families import registry
from openllm_core.families.spec import FamilySpec, from_data

V035 = json.loads((Path(__file__).parents[1] / "data" / "v035.json").read_text())["families"]
ELEVEN = list(V035)
FAMILIES = registry.all()


def test_the_eleven_come_first_in_their_order() -> None:
    """Then the newer ones by name."""
    names = [family.name for family in FAMILIES]
    assert names[:11] == ELEVEN
    assert names[11:] == sorted(names[11:])
    assert {"smollm", "llama-chat", "qwen", "mistral", "mixtral", "gemma", "phi", "deepseek", "gpt-oss", "olmo"} <= set(
        names
    )


@pytest.mark.parametrize("name", ELEVEN)
def test_the_eleven_are_as_they_were(name: str) -> None:
    """Ids, architecture, defaults, own fields and requirements of 0.3.5."""
    family, then = registry.find(name), V035[name]
    assert family.compat_family == name
    found = {
        "config_class": family.config_class,
        "architecture": family.architectures[0],
        "model_type": family.model_type,
        "default_id": family.default_id,
        "model_ids": family.model_ids,
        "trust_remote_code": family.trust_remote_code,
        "timeout": family.timeout,
        "requirements": family.requirements or None,
        "tokenizer_class": family.tokenizer_class,
        "name_type": family.name_type,
        "generation_overrides": family.generation,
        "sampling_overrides": family.sampling,
        "own_fields": {key: fact.default for key, fact in family.own_fields.items()},
        "fine_tune": family.fine_tune,
    }
    assert found == then


def test_families_name_the_backends_that_run_them() -> None:
    """All run on pt; those that 0.3.5 ran on vLLM are marked so, Falcon among them, where vLLM still has them."""
    assert all("pt" in family.backends for family in FAMILIES)
    assert "vllm" in registry.find("falcon").backends
    for name in ("flan-t5", "mpt", "baichuan"):  # it never had the first, and has dropped the others
        assert "vllm" not in registry.find(name).backends


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_is_whole(family: FamilySpec) -> None:
    """Names a family of 0.3.5 clients know, runs on pt, has no own fields they do not know, and sources its facts."""
    assert family.compat_family in ELEVEN
    assert "pt" in family.backends
    assert family.name in ELEVEN or not family.own_fields
    assert family.source_of("default_id")
    assert all(registry.find(model_id) for model_id in family.model_ids)
    for name in family.prompt.formats:
        assert "{instruction}" in family.prompt_format(name).text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("flan-t5", "flan-t5"),
        ("flan_t5", "flan-t5"),
        ("FlanT5", "flan-t5"),
        ("FlanT5Config", "flan-t5"),
        ("GPTNeoX", "gpt-neox"),
        ("gpt_neo_x", "gpt-neox"),
        ("chat-glm", "chatglm"),
        ("StableLM", "stablelm"),
        (" opt ", "opt"),
        ("gpt-oss", "gpt-oss"),
        ("facebook/opt-125m", "opt"),
        ("Facebook/OPT-125M", "opt"),
        ("facebook/opt-125m:main", "opt"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen"),
    ],
)
def test_names_and_ids_in_any_spelling(text: str, name: str) -> None:
    """Kebab, snake, class name; hub ids in any case, with or without revision."""
    assert registry.find(text).name == name


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("LlamaForCausalLM", "llama"),
        ("GPTNeoXForCausalLM", "gpt-neox"),
        ("T5ForConditionalGeneration", "flan-t5"),
        ("Qwen2ForCausalLM", "qwen"),
        ("DeepseekV3ForCausalLM", "deepseek"),
        ("MptForCausalLM", "mpt"),
        ("StableLmForCausalLM", "stablelm"),
        ("ChatGLMModel", "chatglm"),
        ("BaichuanForCausalLM", "baichuan"),
        ("SmolLM3ForCausalLM", "smollm"),
    ],
)
def test_an_architecture_leads_to_the_family_that_claims_it(architecture: str, name: str) -> None:
    """Where several have it, one is marked as the answer."""
    found = registry.for_architecture(architecture)
    assert found is not None and found.name == name


def test_an_unknown_architecture_leads_nowhere() -> None:
    """The model may still be served; only nothing is known of it."""
    assert registry.for_architecture("NopeForCausalLM") is None


def test_no_architecture_is_claimed_twice() -> None:
    """Else the answer would depend on order."""
    claimed = [name for family in FAMILIES for name in family.default_for]
    assert len(set(claimed)) == len(claimed)


def test_the_default_family_serves_the_default_model() -> None:
    """SmolLM2-135M-Instruct, told to old clients as llama."""
    family = registry.default()
    assert (family.name, family.default_id) == ("smollm", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert family.compat_family == "llama"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("lama", "llama"), ("flan_t", "flan-t5"), ("mistrall", "mistral"), ("facebook/opt-125", "facebook/opt-125m")],
)
def test_a_wrong_name_suggests_near_ones(wrong: str, near: str) -> None:
    """Families for a word, ids for an id."""
    assert near in registry.suggest(wrong)
    with pytest.raises(UnknownModel) as caught:
        registry.find(wrong)
    assert near in (caught.value.hint or "")
    assert caught.value.exit_code == 66


def test_a_hopeless_name_says_where_to_look() -> None:
    """And is cut in the message."""
    with pytest.raises(UnknownModel) as caught:
        registry.find("zzzz" * 1000)
    assert "openllm models" in (caught.value.hint or "")
    assert len(caught.value.message) < 300
    assert registry.get("zzzz") is None


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    """The caches, emptied before and after."""
    cached = (registry.all, registry.built_in, registry._stems, registry._read, registry._by_id)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


class Entry:
    """An entry point."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.loaded = name, loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


def other(name: str) -> FamilySpec:
    """A minimal family of another package."""
    return from_data(
        {
            "name": name,
            "compat_family": "llama",
            "architectures": ["OtherForCausalLM"],
            "default_id": f"org/{name}",
            "model_ids": [f"org/{name}"],
            "sources": {"*": "unverified"},
        },
        "test",
    )


def test_other_packages_add_families(
    fresh_registry: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the entry-point group; one or several; a broken, foreign or clashing one is left out with a line in the log."""
    entries = [
        Entry("one", other("new-one")),
        Entry("two", [other("new-two"), other("new-three")]),
        Entry("broken", ImportError("no such module")),
        Entry("foreign", ["text"]),
        Entry("clash", other("flan_t5")),
    ]
    groups: list[str] = []
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: (groups.append(group), entries)[1])
    with caplog.at_level(logging.WARNING, "openllm"):
        names = [family.name for family in registry.all()]
    assert groups == ["openllm.families"]
    assert names[-3:] == ["new-one", "new-two", "new-three"]
    assert registry.find("org/NEW-two").name == "new-two"
    assert len(caplog.records) == 3
    assert registry.find("flan_t5").default_id == "google/flan-t5-large"


def test_a_family_of_ours_reads_its_own_file_alone(fresh_registry: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And asks no other package; neither does one of our ids, nor an architecture that one of ours claims."""
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: pytest.fail("other packages were asked"))
    assert registry.find("FlanT5").name == "flan-t5"
    assert registry._read.cache_info().misses == 1
    assert registry.find("facebook/opt-125m").name == "opt"
    claimed = registry.for_architecture("LlamaForCausalLM")
    assert claimed is not None and claimed.name == "llama"


def test_a_file_is_named_after_its_family(
    fresh_registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else it would not be found by name; the message says where it belongs. Other files are left alone."""
    facts = Path(registry.__file__).parent / "data"
    (tmp_path / "wrong.toml").write_text((facts / "opt.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "notes.md").write_text("no family", encoding="utf-8")
    monkeypatch.setattr(registry, "_DATA", str(tmp_path))
    with pytest.raises(ConfigError, match=r"belongs into opt\.toml"):
        registry.get("wrong")
