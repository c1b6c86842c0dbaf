"""Checks of the model: is it here, whole and allowed, can its text be tokenised and its conversations be written.

Nothing is fetched or converted: a model that is not on this machine yet is a note, since a start would bring it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs

from openllm.python_tokenizer import HostTokenizer
from openllm.serialisation import ResolvedModel, resolve
from openllm.serialisation.fetch import DEFAULT_MODEL
from openllm.serialisation.formats import inspect
from openllm.serialisation.locate import locate
from openllm.serialisation.safety import findings as code_in
from openllm.serialisation.store import Store
from openllm.serialisation.tokenizers import is_code
from openllm.tokenizer import Tokenizer
from openllm_core.families import registry as families

from .finding import Finding, Situation


def model(situation: Situation) -> Iterator[Finding]:
    """What the model's text means, and whether the model is on this machine; fills in `situation.resolved`."""
    if situation.needs_no_model:
        yield Finding("model", "ok", "echo, which needs none")
        return
    if situation.resolved is None:
        situation.resolved = _find_here(situation)
    found = situation.resolved
    if found is None:
        wanted = situation.model_id or situation.model or f"the default model ({DEFAULT_MODEL.model_id})"
        yield Finding(
            "model", "note", f"{wanted} is not on this machine; a start fetches or converts it", _fetch(situation)
        )
        return
    data = {"model_id": found.model_id, "family": found.family, "architecture": found.architecture}
    yield Finding("model", "ok", f"{found.served_name} ({found.how})", data=data)


def _fetch(situation: Situation) -> str:
    return " ".join(["openllm import", *filter(None, (situation.model, situation.model_id))])


def _find_here(situation: Situation) -> ResolvedModel | None:
    """The model, if a start would neither fetch nor convert it.

    Raises:
        OpenLLMError: what a start would fail with: no such name, damaged, carries code, offline and not here.
    """
    store = Store(situation.store)
    located = locate(situation.model_id or situation.model or DEFAULT_MODEL.model_id, store)
    if located.folder is not None and _is_converted(located.folder, pickle=situation.engine.converts_pickle):
        return None
    hub_id = located.hub_id
    known = hub_id is None or store.find_id(hub_id.id, hub_id.revision) is not None
    if not known and not situation.store.offline:
        return None
    engine = situation.engine
    default = situation.model is None and situation.model_id is None  # a start fetches it unless `fast` finds it
    return resolve(
        situation.model,
        model_id=situation.model_id,
        options=attrs.evolve(situation.store, offline=True, fast=situation.store.fast or (known and default)),
        trust_remote_code=engine.trust_remote_code,
        allow_pickle_weights=engine.converts_pickle,
    )


def _is_converted(path: Path, *, pickle: bool) -> bool:
    """A start would make a stored model of it: an archive, a GGUF file, pickled weights where they may be read."""
    return path.is_file() or inspect(path).kind in (("gguf", "pickle") if pickle else ("gguf",))


def code(situation: Situation) -> Iterator[Finding]:
    """Whether the model brings Python code of its own; without leave `model` has refused it already."""
    if situation.resolved is None:
        return
    carried = list(code_in(situation.resolved.path))
    if carried:
        text = f"the model carries code that will run here ({carried[0]}), as --trust-remote-code allows"
        yield Finding("code", "warn", text, "Leave --trust-remote-code out if you do not trust who wrote it.")
    else:
        yield Finding("code", "ok", "the model carries no code of its own")


def tokenizer(situation: Situation) -> Iterator[Finding]:
    """Text can be turned into tokens, and a conversation into text."""
    found = situation.resolved
    if found is None:
        return
    if is_code(found.path, trust_remote_code=situation.engine.trust_remote_code):
        loaded: Tokenizer = HostTokenizer(found.path)
        yield Finding("tokenizer", "ok", "Python code, which runs in the engine process")
    elif (found.path / "tokenizer.json").is_file():
        loaded = Tokenizer.from_folder(found.path)
        yield Finding("tokenizer", "ok", "tokenizer.json is read")
    else:
        yield Finding("tokenizer", "note", "no tokenizer.json yet; a start makes one of the tokenizer's other files")
        return
    family = families.get(found.family) if found.family else None
    if loaded.chat_template is not None:
        yield Finding("chat", "ok", "the model's own chat template")
    elif family is not None and family.chat_template is not None:
        yield Finding("chat", "ok", f"no chat template; the prompt template of the family {family.name} is used")
    else:
        text = "the model has no chat template: /v1/chat/completions will refuse, /v1/completions answers"
        yield Finding("chat", "warn", text, "Put a chat_template.jinja into the model's folder.")
