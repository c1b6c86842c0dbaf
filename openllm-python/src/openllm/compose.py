"""Wires concrete parts together: engine, chat renderer, service, app. The only module that does.

Called by `openllm start` and by whatever else serves. Nothing starts here: `openllm.server.run.serve` starts what this
returns.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs
from prometheus_client import CollectorRegistry

from openllm import adapters, process_metrics, telemetry
from openllm.access import Access
from openllm.access_log import AccessLog
from openllm.backends import registry as backends
from openllm.backends import sentence
from openllm.chat import ChatRenderer
from openllm.embedding_model import embedder_of
from openllm.engine.engine import Engine
from openllm.engine.placement import place
from openllm.engine.pool import AnyEngine, EnginePool
from openllm.observation import Observer, Observers
from openllm.serialisation import open_tokenizer
from openllm.service import ServedModel, Service
from openllm.service.adapters import ServedAdapters
from openllm.tokenizer import Tokenizer, byte_tokenizer
from openllm.tools import ChatForm, form_of
from openllm_core.config.env import EnvVarMixin
from openllm_core.config.llm import LLMConfig
from openllm_core.config.resolve import general_config
from openllm_core.errors import UnknownModel
from openllm_core.families import registry as families
from openllm_core.families.spec import FamilySpec
from openllm_core.fields import settle
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.settings import read

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from openllm.engine.supervisor import Launcher
    from openllm.rpc.server import RpcServer
    from openllm.serialisation import ResolvedModel
    from openllm.server.middleware import Application
    from openllm.telemetry.otel import Telemetry

ECHO = "echo"


@attrs.frozen(kw_only=True)
class Composed:
    """What `build` made, nothing of it started.

    Attributes:
        app: ASGI application over `service`.
        metrics_app: ASGI application of `/metrics` alone, for a port of its own.
        rpc: gRPC server over `service`, where one was asked for.
        telemetry: sends traces and metrics, where a collector is named; to be closed last.
        notes: one line per family default that the backend cannot do and that is therefore ignored.
    """

    engine: AnyEngine
    service: Service
    app: Application
    metrics_app: ASGIApp
    rpc: RpcServer | None = None
    telemetry: Telemetry | None = None
    notes: tuple[str, ...] = ()


def build(
    engine_options: EngineOptions,
    server_options: ServerOptions,
    model: ResolvedModel | None = None,
    *,
    launch: Launcher | None = None,
    config: LLMConfig | None = None,
    store: StoreOptions | None = None,
    loopback_only: bool = False,
) -> Composed:
    """Put a server together.

    Args:
        engine_options: `backend` may be `auto`; model facts are filled in from `model`.
        model: None only with the echo backend, which needs none.
        launch: how the engine host is started; default a process of its own.
        config: generation defaults, of the model's family; default: what the environment and the family say.
        store: where adapters and an embedding model are found by name; default: what the environment says.
        loopback_only: answer this machine alone, where another program listens for us.

    Raises:
        UnknownBackend, MissingDependency: no such backend, or none that can run the model.
        UnknownModel: no model, and the backend needs one.
        ConfigError: the key file cannot be used.
        InvalidSetting, NoSuitableDevice: `--engines` or `--workers-per-resource` asks for what is not there.
    """
    if model is not None:
        engine_options = model.engine(engine_options)
    backend, _ = backends.choose(engine_options, model.architecture if model else None)
    if model is None and backend != ECHO:
        raise UnknownModel(f"The {backend} backend needs a model.", hint="openllm start MODEL")
    family = families.get(model.family) if model is not None and model.family else None
    options = attrs.evolve(
        engine_options,
        backend=backend,
        model_path=str(model.path) if model else "",
        model_id=model.model_id if model else ECHO,
        family=family.name if family else "",
    )
    names = served_names(server_options, model)
    bound = adapters.bind(options, store or read(StoreOptions).options, names)
    options = bound.options
    trust = options.trust_remote_code
    tokenizer = open_tokenizer(model.path, trust_remote_code=trust) if model else byte_tokenizer()
    config, notes = settle(config or LLMConfig.for_model(family or unknown_family()), backend)
    form = _form(server_options, family, tokenizer)
    served = _served(options, names, config, family, form)
    registry = CollectorRegistry()
    access = Access(server_options, registry)
    tracing = telemetry.begin(os.environ)
    observers = _observers(server_options, served, registry, tracing)
    engine = _engines(options, server_options, tokenizer, registry, launch)
    embedder = embedder_of(engine, options, tokenizer, store or read(StoreOptions).options, launch)
    chat = ChatRenderer.of(tokenizer, family.chat_template if family else None)
    served_adapters = _adapters(engine, bound, names, server_options, store)
    service = Service(
        engine, model=served, server_options=server_options, chat=chat, adapters=served_adapters, embedder=embedder
    )
    from openllm.server.app import create_app, create_metrics_app

    app = create_app(service, server_options, registry, access, loopback_only=loopback_only, observers=observers)
    return Composed(
        engine=engine,
        service=service,
        app=app,
        rpc=_rpc(service, server_options, registry, access, observers),
        metrics_app=create_metrics_app(registry),
        telemetry=tracing,
        notes=(*notes, *bound.notes),
    )


def _served(
    options: EngineOptions, names: tuple[str, ...], config: LLMConfig, family: FamilySpec | None, form: ChatForm
) -> ServedModel:
    """What is served, in names; `options` are settled."""
    return ServedModel(
        model_id=options.model_id,
        names=names,
        config=config,
        backend=options.backend,
        family=family,
        generates=sentence.generates(options),
        form=form,
    )


def _observers(
    options: ServerOptions, model: ServedModel, registry: CollectorRegistry, tracing: Observer | None
) -> Observers:
    """Who sees each request as it ends."""
    errors = process_metrics.register(registry, model.backend, model.names[0])
    lines = AccessLog(prompts=options.log_prompts)
    return Observers(lines, errors, *([tracing] if tracing else []))


def _rpc(
    service: Service, options: ServerOptions, registry: CollectorRegistry, access: Access, observers: Observers
) -> RpcServer | None:
    """The gRPC server, where the operator asked for one."""
    if options.grpc_port is None:
        return None
    from openllm.rpc.server import RpcServer

    return RpcServer(service, options, registry, access, observers)


def _form(options: ServerOptions, family: FamilySpec | None, tokenizer: Tokenizer) -> ChatForm:
    """How the model writes tool calls and reasoning: as the settings say, else its family."""
    return form_of(
        tools=options.tool_call_parser,
        reasoning=options.reasoning_parser,
        family_tools=family.tool_format if family else None,
        family_reasoning=family.reasoning if family else None,
        template=tokenizer.chat_template,
    )


def _adapters(
    engine: AnyEngine,
    bound: adapters.Bound,
    names: tuple[str, ...],
    server_options: ServerOptions,
    store: StoreOptions | None,
) -> ServedAdapters:
    """The adapters that are served, and where others are found if the operator lets requests load them."""
    options = bound.options
    may_load = server_options.allow_adapter_load and options.max_adapters > 0
    return ServedAdapters(
        engine.adapters,
        models=names,
        given=bound.given,
        max_adapters=options.max_adapters,
        shelf=adapters.StoreShelf(store or read(StoreOptions).options, options) if may_load else None,
    )


def _engines(
    options: EngineOptions,
    server_options: ServerOptions,
    tokenizer: Tokenizer,
    registry: CollectorRegistry,
    launch: Launcher | None,
) -> AnyEngine:
    """One engine, or as many as `--engines` says, which share the length of the waiting line."""
    placed = place(options, server_options.engines, workers_per_resource=server_options.workers_per_resource)
    most = server_options.max_queue
    made = [
        Engine(
            own,
            tokenizer,
            max_queue=most if most is None else math.ceil(most / len(placed)),
            queue_timeout_s=server_options.queue_timeout,
            restarts=server_options.restarts,
            canary_s=server_options.canary_interval,
            launch=launch,
            registry=registry if len(placed) == 1 else None,
        )
        for own in placed
    ]
    return made[0] if len(made) == 1 else EnginePool(made, registry)


def served_names(options: ServerOptions, model: ResolvedModel | None) -> tuple[str, ...]:
    """Names accepted in `model`: those asked for, else the model's own."""
    if options.served_model_name:
        return tuple(dict.fromkeys(options.served_model_name))
    return (model.served_name,) if model else (ECHO,)


def defaults_of(family: str | None, fields: Mapping[str, Any], typed: Mapping[str, Any] | None = None) -> LLMConfig:
    """Generation defaults of a model: typed > environment > `fields` > family.

    Args:
        family: its name; None when the model is of no known one.
        fields: what a configuration file or a Bento says.
        typed: what this command line says.

    Raises:
        InvalidSetting, InvalidRequest: a value does not fit.
    """
    spec = families.find(family) if family else unknown_family()
    environ: dict[str, str] = dict(os.environ)
    if fields:
        environ[EnvVarMixin.config] = json.dumps({**fields, **general_config(os.environ)})
    return LLMConfig.for_model(spec, environ=environ, **(typed or {}))


def unknown_family() -> FamilySpec:
    """Stands in for the family of a model we know nothing of: the default one's shape, no recommendations."""
    return attrs.evolve(families.default(), generation={}, sampling={})
