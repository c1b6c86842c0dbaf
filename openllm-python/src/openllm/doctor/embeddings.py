"""Check of the embeddings: which model makes them, and whether the engine that is started for it will find memory.

They never stop a start: a second engine is loaded with the first request for embeddings, and what goes wrong then is told to
those requests alone. Nothing is loaded or fetched here.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from openllm.backends import registry
from openllm.embedding_model import BACKEND, maker_of, name_of, second_options
from openllm.serialisation import find_here
from openllm.serialisation.fetch import EMBEDDING_MODEL
from openllm_core.errors import OpenLLMError
from openllm_core.options import EngineOptions

from .finding import Finding, Situation

FIX = "Name a small model by --embedding-model."


def embeddings(situation: Situation) -> Iterator[Finding]:
    """Who makes them; a second engine's memory beside that of the engine that serves."""
    resolved = situation.resolved
    if resolved is None and not situation.needs_no_model:
        return
    own = resolved.engine(situation.engine) if resolved else situation.engine
    backend, _ = registry.choose(own, resolved.architecture if resolved else None, situation.machine, situation.version)
    options = attrs.evolve(own, backend=backend)
    maker = maker_of(options)
    if maker == "engine":
        yield Finding("embeddings", "ok", "made by the model itself, in its own engine")
        return
    if maker == "same model":
        yield _second(situation, options, second_options(options), "the model itself on pt, in a second engine")
        return
    name = name_of(options)
    folder = find_here(options.embedding_model or EMBEDDING_MODEL.model_id, situation.store)
    if folder is None:
        text = f"{name} makes them and is not on this machine"
        if situation.store.offline:
            yield Finding("embeddings", "warn", f"{text}: /v1/embeddings will refuse", f"openllm import {name}")
        else:
            yield Finding("embeddings", "note", f"{text}; the first request fetches it", f"openllm import {name}")
        return
    alone = attrs.evolve(second_options(options), model_path=str(folder), max_model_len=None, dtype="auto")
    yield _second(situation, options, alone, f"{name} in a second engine")


def _second(situation: Situation, serving: EngineOptions, alone: EngineOptions, who: str) -> Finding:
    """Whether both fit at once; without leave for the second one's code its refusal is what is told."""
    try:
        found = registry.get(BACKEND).estimate(alone, situation.machine)
        beside = registry.get(serving.backend).estimate(serving, situation.machine) if serving.model_path else None
    except OpenLLMError as error:
        return Finding("embeddings", "warn", f"{who}: {error.message}", error.hint or FIX)
    same = beside is not None and beside.device == found.device
    together = found.need_bytes + (beside.need_bytes if beside is not None and same else 0)
    data = {"need_bytes": found.need_bytes, "have_bytes": found.have_bytes, "together_bytes": together}
    text = f"{who} from the first request on: {found.need_bytes:,} bytes on {found.device}"
    if same:
        text += f", {together:,} with the engine that serves"
    if found.have_bytes is not None and together > found.have_bytes:
        text += f"; {found.have_bytes:,} are free: /v1/embeddings may refuse"
        return Finding("embeddings", "warn", text, FIX, data=data)
    return Finding("embeddings", "ok", text, data=data)
