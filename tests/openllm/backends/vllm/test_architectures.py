"""What a vLLM can run, read from the source of its registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openllm.backends import registry
from openllm.backends.vllm import architectures, source
from openllm_core.errors import InvalidSetting, UnsupportedFeature
from openllm_core.options import EngineOptions

REGISTRY = """
_TEXT_GENERATION_MODELS = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM")}
_MULTIMODAL_MODELS = {"LlavaForConditionalGeneration": ("llava", "X")}
_EMBEDDING_MODELS = {"BertModel": ("bert", "BertModel")}
_PREVIOUSLY_SUPPORTED_MODELS = {"MptForCausalLM": "0.28.0"}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS}
"""
ARGUMENTS = """
@dataclass
class EngineArgs:
    model: str = ""
    max_num_batched_tokens: int | None = None
    kept = 3
    def method(self): ...
@dataclass
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
class Other:
    stranger: int = 0
"""


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A package named vllm that holds nothing but a registry; importing it would fail."""
    package = tmp_path / "vllm"
    (package / "model_executor/models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    (package / "engine").mkdir()
    (package / architectures.REGISTRY).write_text(REGISTRY)
    (package / source.ARGUMENTS).write_text(ARGUMENTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for cached in (architectures._names, source.engine_arguments):
        cached.cache_clear()
    yield
    for cached in (architectures._names, source.engine_arguments):
        cached.cache_clear()


@pytest.mark.usefixtures("vllm")
def test_what_it_has_and_had() -> None:
    """Generating models are taken; one it dropped is named with its last version; embedding models are not run."""
    assert architectures.installed()
    assert architectures.unsupported("LlamaForCausalLM") is None
    assert architectures.unsupported("LlavaForConditionalGeneration") is None
    assert "0.28.0 was the last version" in str(architectures.unsupported("MptForCausalLM"))
    assert architectures.unsupported("BertModel") == "vLLM has no BertModel."
    with pytest.raises(UnsupportedFeature) as caught:
        architectures.refuse_unsupported("T5ForConditionalGeneration")
    assert "--backend pt" in str(caught.value.hint)


@pytest.mark.usefixtures("vllm")
def test_auto_takes_vllm_where_it_has_the_architecture() -> None:
    """And pt otherwise; both with the reason."""
    assert registry.choose(EngineOptions(), "LlamaForCausalLM") == ("vllm", "installed, and runs LlamaForCausalLM")
    backend, why = registry.choose(EngineOptions(), "MptForCausalLM")
    assert backend == "pt" and "no longer has MptForCausalLM" in why
    assert registry.choose(EngineOptions(quantize="int8"), "LlamaForCausalLM")[0] == "pt"


@pytest.mark.usefixtures("vllm")
def test_engine_arguments_are_known_before_it_is_imported() -> None:
    """A key that is no field of its arguments is refused with near ones; dashes or underscores."""
    backend = registry.get("vllm")
    backend.check_arguments(EngineOptions(engine_arg={"max-num-batched-tokens": "64", "enable_log_requests": "true"}))
    for key in ("max-num-batched-token", "stranger", "kept"):
        with pytest.raises(InvalidSetting, match=key.replace("-", "_")) as caught:
            backend.check_arguments(EngineOptions(engine_arg={key: "64"}))
        assert (key != "max-num-batched-token") or "max_num_batched_tokens" in (caught.value.hint or "")


def test_without_vllm_engine_arguments_are_left_to_it() -> None:
    """Nothing is refused for want of the package, which is refused itself."""
    source.engine_arguments.cache_clear()
    if not architectures.installed():
        registry.get("vllm").check_arguments(EngineOptions(engine_arg={"anything": 1}))
