"""The BentoML service of a Bento: our application, mounted, and started and stopped with BentoML's worker.

Called by the service file that `build.py` writes into each Bento, which hands in what wires a server together: this folder
must not know `openllm.compose`. Importing a service starts nothing; the model loads once the worker runs.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from openllm import running
from openllm.access import has_keys
from openllm.serialisation import bento_record, resolve
from openllm_core.errors import InvalidSetting, OpenLLMError, UnsafeConfiguration
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.settings import Reading, read

from .untracked import bentoml

if TYPE_CHECKING:
    from openllm.serialisation import ResolvedModel
    from openllm.serialisation.bento_record import BuiltBento
    from openllm.service import Service
    from openllm_core.config.llm import LLMConfig

BENTOML_OWN = ("/livez", "/readyz", "/healthz", "/metrics", "/schema.json")
"""Routes that BentoML answers before what is mounted. Ours say more, and all but the first two ask for the key."""
TIMEOUT_MARGIN_S = 5  # so that our own deadline, with its answer, comes before BentoML's

_log = logging.getLogger("bentoml.openllm")  # below the one whose lines a worker prints

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGI = Callable[[Any, Any, Any], Awaitable[None]]


class Composed(Protocol):
    """What `openllm.compose.build` makes."""

    @property
    def service(self) -> Service:
        """The use cases."""
        ...

    @property
    def app(self) -> Any:
        """The ASGI application."""
        ...

    @property
    def telemetry(self) -> Any:
        """What sends traces and metrics, to be closed last; None where nobody wants them."""
        ...


class Compose(Protocol):
    """`openllm.compose.build`."""

    def __call__(
        self,
        engine_options: EngineOptions,
        server_options: ServerOptions,
        model: ResolvedModel | None = None,
        *,
        config: LLMConfig | None = None,
        store: StoreOptions | None = None,
        loopback_only: bool = False,
    ) -> Composed:
        """Put a server together."""
        ...


class Defaults(Protocol):
    """`openllm.compose.defaults_of`."""

    def __call__(self, family: str | None, fields: Mapping[str, Any]) -> LLMConfig:
        """Generation defaults of a model."""
        ...


@attrs.frozen(kw_only=True)
class Options:
    """What a Bento is served with: environment > Bento > default.

    Attributes:
        http: `host` and `port` for BentoML's server, those that were given; its own are every address and 3000.
    """

    engine: EngineOptions
    server: ServerOptions
    store: StoreOptions
    http: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    @classmethod
    def of(cls, bento: BuiltBento) -> Options:
        """Read them.

        Raises:
            InvalidSetting: a value does not fit.
            UnsafeConfiguration: the Bento asks for what counts only when typed.
        """
        given = bento.settings()
        server = read(ServerOptions, file=given)
        return cls(
            engine=read(EngineOptions, file=given).options,
            server=server.options,
            store=attrs.evolve(read(StoreOptions).options, bento_path=str(bento.path)),
            http=_address(server),
        )


def _address(server: Reading[ServerOptions]) -> dict[str, Any]:
    """The address that was given, as BentoML takes it: it knows no names of hosts.

    Raises:
        InvalidSetting: the host is a name, other than localhost.
    """
    found: dict[str, Any] = {n: getattr(server.options, n) for n in ("host", "port") if server.sources[n] != "default"}
    if found.get("host") == "localhost":
        found["host"] = "127.0.0.1"
    if "host" in found:
        try:
            ip_address(found["host"])
        except ValueError:
            raise InvalidSetting(
                f"--host {found['host']}: a Bento listens on an address, not on a name.",
                hint="For instance --host 0.0.0.0, every address.",
                param="--host",
            ) from None
    return found


def _check_encryption(options: Options, tag: str) -> None:
    """Refuse to answer in the clear where encryption was asked for: BentoML's server takes certificates of its own only.

    Raises:
        UnsafeConfiguration: names the ways out.
    """
    if options.server.ssl_certfile:
        raise UnsafeConfiguration(
            f"{tag} asks for TLS (--ssl-certfile), and `bentoml serve` would answer unencrypted.",
            hint=f"openllm start {tag}, or a Bento without it: BentoML's server takes certificates as flags of its own.",
            param="--ssl-certfile",
        )


class LateApplication:
    """An ASGI application that is made when the worker starts, and mounted before."""

    def __init__(self) -> None:
        self.app: ASGI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on; the worker takes none before its start is done."""
        assert self.app is not None
        await self.app(scope, receive, send)


class OurRoutes:
    """Middleware: on the routes that BentoML would answer itself, our application answers."""

    def __init__(self, app: ASGI, *, ours: ASGI) -> None:
        self._app = app
        self._ours = ours

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Choose by the path."""
        mine = scope["type"] == "http" and scope["path"] in BENTOML_OWN
        await (self._ours if mine else self._app)(scope, receive, send)


class Server:
    """Our server in a worker of BentoML."""

    def __init__(self, bento: BuiltBento, compose: Compose, defaults: Defaults) -> None:
        self._bento = bento
        self._compose = compose
        self._defaults = defaults
        self._composed: Composed | None = None
        self._watch: asyncio.Task[None] | None = None
        self._grace_s = 0.0
        self._key_needed = False
        self._note: Path | None = None

    async def start(self) -> ASGI:
        """Find the model, begin to load it, and give the application.

        Raises:
            OpenLLMError: the model is missing, a package is, a setting does not fit.
            UnsafeConfiguration: encryption was asked for, which is not ours to give here.
        """
        options = Options.of(self._bento)
        _check_encryption(options, self._bento.tag)
        record = self._bento.record
        model = await asyncio.to_thread(resolve, record.family, model_id=record.model, options=options.store)
        # BentoML has bound the address, not we: with a key it is meant to be reached, without one it is for this machine.
        self._key_needed = public = has_keys(options.server)
        server = attrs.evolve(options.server, host="0.0.0.0" if public else "127.0.0.1")
        config = self._defaults(model.family, record.fields)
        composed = self._compose(
            options.engine, server, model, config=config, store=options.store, loopback_only=not public
        )
        await composed.service.start()
        self._composed, self._grace_s = composed, options.server.drain_grace
        self._watch = asyncio.create_task(self._report())
        return composed.app

    async def stop(self) -> None:
        """Let streams finish within the grace, then stop the engine."""
        running.forget(self._note)
        if self._watch is not None:
            self._watch.cancel()
        if self._composed is not None:
            await self._composed.service.drain(self._grace_s)
            await self._composed.service.aclose()
            if (telemetry := self._composed.telemetry) is not None:
                await asyncio.to_thread(telemetry.close)

    async def _report(self) -> None:
        """Say when the model answers, or why it never will; the routes answer 503 with the same reason."""
        assert self._composed is not None
        service = self._composed.service
        engine = service.engine
        try:
            info = await engine.wait_ready()
        except OpenLLMError as error:
            _log.error("%s cannot be served: %s", self._bento.tag, error)
            return
        _log.info("%s is ready.", self._bento.tag)
        where = running.own_endpoint()
        if where is not None:
            ready = running.Ready(
                endpoint=where,
                model=service.model.names[0],
                backend=info.backend,
                device=info.device,
                key_needed=self._key_needed,
            )
            self._note = running.remember(ready)
        error = await engine.wait_failed()
        _log.error("%s is served no more: %s", self._bento.tag, error)


def create_service(file: str, compose: Compose, defaults: Defaults) -> Any:
    """The `bentoml.Service` of the Bento in whose sources `file` lies.

    Args:
        file: of the service, `__file__`.
        compose, defaults: `openllm.compose.build` and `openllm.compose.defaults_of`.

    Raises:
        CorruptModel: there is no record beside the file, or it is damaged.
        InvalidSetting, UnsafeConfiguration: the Bento, or a variable, asks for what cannot be.
    """
    framework = bentoml()
    bento = bento_record.read(Path(file).resolve().parent.parent)
    options = Options.of(bento)
    name = bento.tag.partition(":")[0]
    server = Server(bento, compose, defaults)
    application = LateApplication()

    class Bundled:
        """OpenLLM: the routes of `openllm start`, described at /docs."""

        @framework.on_startup
        async def begin(self) -> None:
            application.app = await server.start()

        @framework.on_shutdown
        async def end(self) -> None:
            await server.stop()

    service = framework.service(
        name=name,
        image=_image(framework, bento.record.image),
        workers=1,  # one engine; more workers would each load the model
        traffic={"timeout": math.ceil(options.server.server_timeout) + TIMEOUT_MARGIN_S},
        **({"http": options.http} if options.http else {}),
    )(Bundled)
    service.mount_asgi_app(application, path="/")
    service.add_asgi_middleware(OurRoutes, ours=application)
    return service


def _image(framework: Any, facts: Mapping[str, Any]) -> Any:
    """What the container is made of. Naming no distribution keeps BentoML from adding its own install commands."""
    image = framework.images.Image(
        base_image=facts["base"],
        distro="",
        python_version=facts["python"],
        lock_python_packages=False,  # locking asks a package index
        commands=list(facts["commands"]),
    ).python_packages(*facts["packages"])
    return image.build_include("wheels") if facts["wheels"] else image
