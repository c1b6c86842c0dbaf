"""`openllm.AutoLLM` (also `AutoModel`) and `AutoVLLM`: from a family's name to an `LLM`, or to a `Runner` of one.

The names and arguments of 0.3.5. `register` makes a family's models instances of a class of one's own. Must not import
torch, transformers or bentoml.
"""

from __future__ import annotations

from typing import Any, ClassVar

from openllm_core.config.auto import AutoConfig
from openllm_core.config.llm import LLMConfig
from openllm_core.errors import InvalidSetting, UnknownModel

from .llm import LLM
from .runner import Runner

RUNNER_ARGUMENTS = ("ensure_available", "init_local", "max_batch_size", "max_latency_ms", "scheduling_strategy")


class AutoLLM:
    """Makes models by name; not made itself."""

    backend: ClassVar[str | None] = None
    """That its models run on; None for the fastest one installed."""
    _registered: ClassVar[dict[type[LLMConfig], type[LLM]]] = {}

    def __init__(self, *args: Any, **values: Any) -> None:
        name = type(self).__name__
        raise OSError(f"{name} is not made itself; use {name}.for_model(name).")

    @classmethod
    def for_model(
        cls,
        model_name: str,
        /,
        model_id: str | None = None,
        model_version: str | None = None,
        llm_config: LLMConfig | None = None,
        ensure_available: bool = False,
        **attrs: Any,
    ) -> LLM:
        """A model, always an `LLM`; it loads at the first call.

        Args:
            model_name: family in any spelling, hub id, stored model or folder.
            model_id: id or folder, where `model_name` is a family.
            model_version: revision of a hub id; version in the store of a folder, which is then brought there.
            llm_config: generation defaults.
            ensure_available: bring the model into the store now.
            attrs: options of `openllm.LLM`.

        Raises:
            InvalidSetting: an option that an LLM has not.
            OpenLLMError: the model cannot be found or fetched.
        """
        if cls.backend is not None:
            attrs.setdefault("backend", cls.backend)
        made = cls._class_of(model_name)(model_name, model_id=model_id, llm_config=llm_config, **attrs)
        if model_version is not None:
            made.use_stored(made.import_version(model_version))
        elif ensure_available:
            made.use_stored(made.save_pretrained())
        return made

    @classmethod
    def create_runner(cls, model_name: str, model_id: str | None = None, **attrs: Any) -> Runner:
        """A runner of a model; takes the arguments of `Runner` beside those of `for_model`."""
        ours = {name: attrs.pop(name) for name in RUNNER_ARGUMENTS if name in attrs}
        if ours.get("max_batch_size") is not None:
            attrs.setdefault("max_num_seqs", ours["max_batch_size"])
        return Runner(llm=cls.for_model(model_name, model_id, **attrs), **ours)

    @classmethod
    def register(cls, config_class: type[LLMConfig], llm_class: type[LLM]) -> None:
        """Make models of a family instances of a class of one's own.

        Raises:
            InvalidSetting: the family has one already, or that is no subclass of LLM.
        """
        if not issubclass(llm_class, LLM):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidSetting(f"{llm_class.__name__} is no subclass of openllm.LLM.")
        if cls._registered.get(config_class, llm_class) is not llm_class:
            raise InvalidSetting(f"{config_class.__name__} has {cls._registered[config_class].__name__} already.")
        cls._registered[config_class] = llm_class

    @classmethod
    def infer_class_from_name(cls, name: str) -> type[LLM]:
        """Class of a family's models: the registered one, else `LLM`.

        Raises:
            UnknownModel: no such family; also a ValueError.
        """
        return cls._registered.get(AutoConfig.infer_class_from_name(name), LLM)

    @classmethod
    def _class_of(cls, name: str) -> type[LLM]:
        try:
            return cls.infer_class_from_name(name)
        except UnknownModel:
            return LLM  # a folder or a stored model, which no family's name stands for


class AutoVLLM(AutoLLM):
    """Makes models that run on vLLM."""

    backend = "vllm"


AutoModel = AutoLLM
