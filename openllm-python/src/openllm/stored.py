"""The files behind an `openllm.LLM`: which folder, which tag, how they get into the store, and how others load them.

Base of `LLM`; programs that fine-tune or inspect a model use it. Starts no engine and loads nothing until asked; torch,
transformers and bentoml are imported by `openllm.serialisation` when one of the methods needs them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import attrs

from openllm_core.errors import InvalidSetting
from openllm_core.options import EngineOptions, StoreOptions
from openllm_core.settings import read

from . import serialisation

if TYPE_CHECKING:
    from .serialisation import ResolvedModel, StoreEntry

ECHO = "echo"
"""The backend that runs without a model."""


class StoredModel:
    """A model by the text that names it.

    Args:
        model: family name, hub id, stored model or folder; None for the default model.
        model_id: id or folder, where `model` is a family name.
        store: where models are kept; default: from the environment.
        engine_options: fields of `EngineOptions`; others come from the environment.
    """

    def __init__(
        self, model: str | None, *, model_id: str | None, store: StoreOptions | None, engine_options: dict[str, Any]
    ) -> None:
        self._model, self._model_id = model, model_id
        self._store = store
        self._given = dict(engine_options)
        self._options: EngineOptions = read(EngineOptions, explicit=engine_options).options
        self._resolved: ResolvedModel | None = None
        self._finding = threading.Lock()

    @property
    def store_options(self) -> StoreOptions:
        """Where its models are kept."""
        return self._store if self._store is not None else read(StoreOptions).options

    @property
    def engine_options(self) -> EngineOptions:
        """How it is to be run, as given and as the environment has it; the model is not looked for."""
        return self._options

    @property
    def trust_remote_code(self) -> bool:
        """Whether Python code of the model folder may run."""
        return self._options.trust_remote_code

    @property
    def tag(self) -> str:
        """`<name>:<version>` in the store; for a folder that is served in place, the tag its import would have."""
        return self.resolved().tag

    @property
    def llm_parameters(self) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
        """What was given to the constructor: ((positional, keyword) for the model, keyword for the tokenizer).

        Keywords that begin with `_tokenizer_` in `engine_arg` are the tokenizer's.
        """
        extra: dict[str, Any] = dict(self._given.get("engine_arg") or {})
        prefix = "_tokenizer_"
        tokenizer = {key.removeprefix(prefix): value for key, value in extra.items() if key.startswith(prefix)}
        model = {key: value for key, value in extra.items() if not key.startswith(prefix)}
        given = {key: value for key, value in self._given.items() if key not in ("engine_arg", "trust_remote_code")}
        return ((), given | model), tokenizer

    def resolved(self) -> ResolvedModel:
        """Find the model, fetching what is missing; once.

        Raises:
            OpenLLMError: nothing is named so, or it cannot be fetched.
        """
        with self._finding:
            if self._resolved is None:
                self._resolved = serialisation.resolve(
                    self._model,
                    model_id=self._model_id,
                    options=self.store_options,
                    trust_remote_code=self.trust_remote_code,
                    allow_pickle_weights=self._options.converts_pickle,
                )
            return self._resolved

    def import_model(self, *decls: Any, trust_remote_code: bool, **attrs: Any) -> Any:
        """Bring the model into the store; a subclass may do it in its own way.

        Args:
            decls, attrs: the parsed parameters of the constructor (`llm_parameters`).

        Returns:
            something with a `tag`, under which the store has the model.
        """
        return serialisation.import_model(
            self._model,
            model_id=self._model_id,
            options=self.store_options,
            trust_remote_code=trust_remote_code,
            allow_pickle_weights=self._options.converts_pickle,
            recipe=serialisation.Recipe(quantize=attrs.get("quantize")),
        )

    def save_pretrained(self) -> StoreEntry:
        """The model's entry of the store, imported when it is not there."""
        return serialisation.get(self, auto_import=True)

    def import_version(self, version: str) -> StoreEntry:
        """The model's entry of the store at a version: revision of a hub id, name of the version of a folder."""
        return serialisation.import_model(
            self._model,
            model_id=self._model_id,
            options=self.store_options,
            trust_remote_code=self.trust_remote_code,
            allow_pickle_weights=self._options.converts_pickle,
            recipe=serialisation.Recipe(version=version, quantize=self._options.quantize),
        )

    def use_stored(self, entry: StoreEntry) -> None:
        """Run the store's copy from here on; what is loaded already stays."""
        found = self._resolved
        if found is None or found.path != entry.path:
            stored = serialisation.resolve(
                entry.tag,
                options=self.store_options,
                trust_remote_code=self.trust_remote_code,
                allow_pickle_weights=self._options.converts_pickle,
            )
            self._resolved = stored if found is None else attrs.evolve(stored, family=found.family or stored.family)

    def load_model(self, *decls: Any, **attrs: Any) -> Any:
        """The transformers model, in this process; see `openllm.serialisation.load_model`."""
        return serialisation.load_model(self, *decls, **attrs)

    def load_tokenizer(self, **attrs: Any) -> Any:
        """The transformers tokenizer, in this process; see `openllm.serialisation.load_tokenizer`."""
        return serialisation.load_tokenizer(self, **attrs)

    def download_model(self) -> Any:
        """Its `bentoml.Model`, brought into the store where it is absent; nothing is fetched when the store has it.

        Raises:
            InvalidSetting: the backend needs no model (echo).
            OpenLLMError: it cannot be found or fetched.
        """
        if self._options.backend == ECHO:
            raise InvalidSetting(f"The {ECHO} backend has no model to download.", param="backend")
        return serialisation.bento_model(self.save_pretrained(), self.store_options)

    @property
    def _bentomodel(self) -> Any:
        """`download_model` by the name 0.3.5's subclasses used."""
        return self.download_model()
