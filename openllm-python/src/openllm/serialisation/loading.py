"""A stored model in the caller's own process: its BentoML entry, its transformers model and tokenizer.

Called through `openllm.serialisation` and by `openllm.LLM`, for programs that want the objects themselves (fine-tuning,
analysis); serving never comes here. torch, transformers and bentoml are imported inside functions.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from openllm_core.errors import CorruptModel, MissingDependency, ModelNotFound
from openllm_core.options import StoreOptions
from openllm_core.settings import read

from . import removal
from .lookup import ResolvedModel
from .store import Store, StoreEntry


class Described(Protocol):
    """What these functions ask of an `openllm.LLM`, or of anything that stands for one."""

    @property
    def tag(self) -> str:
        """`<name>:<version>` of its model."""
        ...

    @property
    def store_options(self) -> StoreOptions:
        """Where its models are kept."""
        ...

    @property
    def trust_remote_code(self) -> bool:
        """Whether code of the model folder may run."""
        ...

    def resolved(self) -> ResolvedModel:
        """Its model's folder, found without loading it."""
        ...

    @property
    def llm_parameters(self) -> tuple[tuple[tuple[Any, ...], dict[str, Any]], dict[str, Any]]:
        """((positional, keyword) for the model, keyword for the tokenizer), as given to its constructor."""
        ...

    def import_model(self, *decls: Any, trust_remote_code: bool, **attrs: Any) -> Any:
        """Bring its model into the store."""
        ...


def get(what: str | Described, options: StoreOptions | None = None, *, auto_import: bool = False) -> StoreEntry:
    """The stored model of a tag, a hub id or an LLM.

    Args:
        what: `name`, `name:version` (backend prefix given or not), hub id, or an LLM.
        options: where models are kept; default: the LLM's, or the environment's.
        auto_import: import an LLM's model that is not in the store.

    Raises:
        ModelNotFound: the store has no such model.
        StoreError: an earlier release stored it; the hint says how to clear such entries.
    """
    if isinstance(what, str):
        store = Store(options if options is not None else read(StoreOptions).options)
        try:
            return store.get(what)
        except ModelNotFound:
            removal.refuse_earlier(store, what)
            raise
    store = Store(options if options is not None else what.store_options)
    entry = store.find(what.tag)
    if entry is None and auto_import:
        (decls, attrs), _ = what.llm_parameters
        made = what.import_model(*decls, trust_remote_code=what.trust_remote_code, **attrs)
        entry = store.find(str(made.tag))
    if entry is None:
        removal.refuse_earlier(store, what.tag)
        raise ModelNotFound(
            f"The store {store.models} has no {what.tag}.", hint="Call import_model, or get(llm, auto_import=True)."
        )
    return entry


def bento_model(entry: StoreEntry, options: StoreOptions) -> Any:
    """The entry as BentoML sees it: a `bentoml.Model`."""
    bentoml = _module("bentoml")
    store = _module("bentoml._internal.models").ModelStore(str(Store(options).models))
    found = store.get(entry.tag)
    assert isinstance(found, bentoml.Model)
    return found


def load_model(llm: Described, *decls: Any, **attrs: Any) -> Any:
    """The transformers model of an LLM, loaded into this process.

    Args:
        decls, attrs: handed to `from_pretrained` (`dtype`, `device_map`, `quantization_config`, …).

    Raises:
        CorruptModel: parameters have no value in the files.
        MissingDependency: transformers or torch is not installed.
    """
    transformers = _module("transformers")
    folder = llm.resolved().path
    config = cast("dict[str, Any]", json.loads((folder / "config.json").read_bytes()))
    auto = transformers.AutoModelForSeq2SeqLM if config.get("is_encoder_decoder") else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(str(folder), *decls, **_local(llm, attrs))
    empty = next((name for name, parameter in model.named_parameters() if parameter.is_meta), None)
    if empty is not None:
        raise CorruptModel(f"{llm.tag}: the parameter {empty} has no value.", hint="Import the model again.")
    return model


def load_tokenizer(llm: Described, **attrs: Any) -> Any:
    """The transformers tokenizer of an LLM; it pads and cuts on the left unless told otherwise."""
    transformers = _module("transformers")
    sides = {"padding_side": "left", "truncation_side": "left"}
    return transformers.AutoTokenizer.from_pretrained(_tokenizer_folder(llm), **(sides | _local(llm, attrs)))


def _tokenizer_folder(llm: Described) -> str:
    from .tokenizers import tokenizer_folder

    folder: Path = llm.resolved().path
    return str(tokenizer_folder(folder, trust_remote_code=llm.trust_remote_code) or folder)


def _local(llm: Described, attrs: dict[str, Any]) -> dict[str, Any]:
    return {"local_files_only": True, "trust_remote_code": llm.trust_remote_code} | attrs


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise MissingDependency(f"{package} is not installed.", hint=f"pip install {package}") from None
