"""Who makes the embeddings of a served model: itself, itself on another backend, or a sentence encoder. Wires, starts nothing.

Called by `compose` for a server, by `openllm.LLM` for a program, and by the checks of a start. The rule: a model named by
`--embedding-model`; else the model itself, where its backend or `pt` can; else all-MiniLM-L6-v2 of the package index.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from openllm_core.options import EngineOptions, StoreOptions

from .backends import checkpoint as checkpoints
from .backends import registry as backends
from .backends import sentence
from .serialisation import find_here, open_tokenizer, resolve
from .serialisation.fetch import EMBEDDING_MODEL
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .engine.embedder import Embedder
    from .engine.engine import Engine
    from .engine.pool import AnyEngine
    from .engine.supervisor import Launcher

log = logging.getLogger("openllm.embedding_model")

BACKEND = "pt"
"""Runs every second engine: it needs nothing that OpenLLM does not bring along."""

Maker = Literal["engine", "same model", "encoder"]


def maker_of(options: EngineOptions) -> Maker:
    """Who makes the embeddings, as far as is known before the model is loaded.

    Args:
        options: of the engine, with `backend` decided and `model_path` resolved.

    Returns:
        the engine itself (which, where the model brings its own code, may turn out not to be able to), a second engine
        with the same model, or a second engine with a sentence encoder.
    """
    if options.embedding_model is not None:
        return "encoder"
    if backends.get(options.backend).embeds(options) is not False:
        return "engine"
    if options.model_path and backends.get(BACKEND).embeds(options) is not False:
        return "same model"
    return "encoder"


def name_of(options: EngineOptions) -> str:
    """Name of the sentence encoder; never a path."""
    named = options.embedding_model or EMBEDDING_MODEL.model_id
    return Path(named).name if Path(named).is_dir() else named


def second_options(options: EngineOptions) -> EngineOptions:
    """Options of a second engine with the same model, which is loaded to make embeddings and nothing else."""
    return attrs.evolve(
        options,
        backend=BACKEND,
        embed_only=True,
        embedding_model=None,
        quantize=None,
        quantization=None,
        adapter_id=(),
        max_adapters=0,
        engine_arg={},
    )


def embedder_of(
    engine: AnyEngine,
    options: EngineOptions,
    tokenizer: Tokenizer,
    store: StoreOptions,
    launch: Launcher | None = None,
) -> Embedder:
    """The embedder of a server or a program.

    Args:
        engine: runs the model.
        options: of that engine.
        tokenizer: of its model.
        store: where a sentence encoder is looked for.
        launch: how the second engine's host is started; default a process of its own.
    """
    maker = maker_of(options)
    alone = second_options(options)

    from .engine.embedder import Embedder, Second  # here: the checks of a start need none of it, and it takes time
    from .engine.engine import Engine

    def same_model() -> Engine:
        return second_engine(alone, tokenizer)

    def encoder() -> Engine:
        found = resolve(
            options.embedding_model or EMBEDDING_MODEL.model_id,
            options=store,
            trust_remote_code=options.trust_remote_code,
            allow_pickle_weights=options.converts_pickle,
        )
        own = attrs.evolve(
            alone,
            model_path=str(found.path),
            model_id=found.model_id,
            family=found.family or "",
            max_model_len=None,
            dtype="auto",
        )
        opened = open_tokenizer(found.path, trust_remote_code=options.trust_remote_code)
        return second_engine(own, opened)

    def second_engine(own: EngineOptions, opened: Tokenizer) -> Engine:
        found = checkpoints.read(own.model_path, allow_pickle=own.allow_pickle_weights)
        if (described := sentence.describe_own(found)[0]) is not None:
            for note in described.notes:
                log.warning("%s: %s", own.model_id, note)
        return Engine(_where_it_fits(own), opened, launch=launch)

    name = options.embedding_model or EMBEDDING_MODEL.model_id
    second = Second(
        name=name_of(options), make=encoder, possible=lambda: not store.offline or find_here(name, store) is not None
    )
    if maker == "same model":
        second = Second(name=None, make=same_model, otherwise=second)
    return Embedder(engine, own=maker == "engine", second=second)


def _where_it_fits(options: EngineOptions) -> EngineOptions:
    """On the CPU where the engine that serves has left too little of the GPU."""
    if options.device == "cpu" or backends.get(BACKEND).estimate(options).fits:
        return options
    return attrs.evolve(options, device="cpu", dtype="auto")
