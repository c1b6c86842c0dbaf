"""`openllm start [MODEL]`: find the model, say what was decided and why, serve until stopped.

Wires nothing itself: `openllm.serialisation.resolve`, `openllm.compose.build` and `openllm.server.run.serve` do the work.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import attrs
import click

from openllm.access import has_keys
from openllm.cli import complete, former, logs
from openllm.cli.bento import wanted
from openllm.cli.doctor import refuse, report, situation_of
from openllm.cli.generation import StartCommand, complete_id, configure, typed_fields
from openllm.cli.locked import lock_checks
from openllm.cli.options import Settings, config_option, setting_options
from openllm.cli.output import Output, output_option
from openllm.cli.ready import curl_line, grpc_snippet, openai_arguments, python_name, python_snippet
from openllm.running import Ready, endpoint, forget, remember
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions

if TYPE_CHECKING:
    from openllm.backends.base import BackendInfo
    from openllm.compose import Composed
    from openllm.doctor import Situation
    from openllm.engine.supervisor import Launcher
    from openllm.serialisation import ResolvedModel

POLL_S = 0.1
LOCAL = ("http://127.0.0.1:3000", "http://localhost:3000")  # where commands look when not told


F = TypeVar("F", bound=Callable[..., Any])


def options(function: F) -> F:
    """Argument and options of the commands that serve: this one and `start-grpc`."""
    decorators: tuple[Callable[[F], F], ...] = (
        click.argument("model", required=False, shell_complete=complete.model),
        click.option(
            "--model-id",
            metavar="ID",
            envvar="OPENLLM_MODEL_ID",
            show_envvar=True,
            shell_complete=complete_id,
            help="Hub id or folder, where MODEL is a family; `openllm start FAMILY --help` lists the official ids.",
        ),
        click.option("--model-version", metavar="TEXT", help="Version of the stored model, or revision of the hub id."),
        click.option(
            "--locked",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="File of `openllm lock`: start what it says, and nothing where anything differs from it.",
        ),
        click.option(
            "--check", is_flag=True, help="Check whether the start would succeed, load nothing; as `openllm doctor`."
        ),
        output_option,
        former.options,
        config_option,
        setting_options(EngineOptions, ServerOptions, StoreOptions),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


@click.command("start", cls=StartCommand)
@options
@click.pass_context
def command(ctx: click.Context, **words: Any) -> int:
    """Serve MODEL over HTTP until stopped.

    MODEL is a folder, a tag of the store, a hub id (org/name), a family (`openllm models`) or a Bento of `openllm build`,
    with what it was built with; without it the default model is served. The API is OpenAI's; /docs on the server describes every route.

    Defaults of generation are flags too, as in --temperature 0.2: `openllm start FAMILY --help` lists them with the
    family's values. --grpc-port serves gRPC as well.

    With -o json, stdout gets one JSON object once the model answers; with -o porcelain, the endpoint.
    """
    return begin(ctx, **words)


def begin(
    ctx: click.Context,
    *,
    model: str | None,
    model_id: str | None,
    model_version: str | None,
    locked: Path | None,
    check: bool,
    output: str,
    config: Path | None,
    grpc_alone: bool = False,
    **typed: Any,
) -> int:
    """What the command does, and `start-grpc`.

    Args:
        grpc_alone: serve gRPC in place of HTTP, on its port.

    Returns:
        the exit code.
    """
    fields = typed_fields(ctx, typed)
    if model_version is not None:
        model, model_id = at_version(model, model_id, model_version)
    what, out = wanted(typed, config, fields, model, model_id, locked), Output(output, ctx.obj)
    settings, model, model_id = what.settings, what.model, what.model_id
    if grpc_alone:
        server = settings.server
        port = server.port if server.grpc_port is None else server.grpc_port
        settings = attrs.evolve(settings, server=attrs.evolve(server, http=False, grpc_port=port))
    if not check:
        out.log = logs.serve(ctx.obj, settings.server)
    if what.bento is not None:
        out.fact("Bento", what.bento.tag, "its model, settings and adapters")
    return report(settings, model, model_id, out) if check else serve(settings, model, model_id, out)


def at_version(model: str | None, model_id: str | None, version: str) -> tuple[str | None, str | None]:
    """MODEL and --model-id where --model-version says which of it: a version of the store, or a revision of the hub.

    Raises:
        click.UsageError: nothing is named that could have versions, or its version is.
    """
    from openllm_core.families import registry

    family = registry.get(model) if model is not None and model_id is None else None
    named = model_id or (family.default_id if family is not None else model)
    if named is None:
        raise click.UsageError("--model-version: name the model that it is a version of.")
    if named.startswith((".", "~", "/")) or ":" in named:
        raise click.UsageError(f"--model-version: {named} is a folder, or names its version.")
    exact = f"{named}:{version}"
    return (model, exact) if model_id or family is not None else (exact, None)


def serve(settings: Settings, model: str | None, model_id: str | None, out: Output) -> int:
    """Resolve, compose, serve.

    Returns:
        the exit code of the server.

    Raises:
        OpenLLMError: the model is not found, the port is taken, a package is missing, …
    """
    from openllm import doctor

    situation = situation_of(settings, model, model_id)
    refuse(situation, doctor.BEFORE_THE_MODEL)
    with sigterm_ends():
        return _start(situation, settings, model, model_id, out)


@contextmanager
def sigterm_ends() -> Generator[None]:
    """Until the server takes SIGTERM itself, it ends this process with 0; what was begun is cleaned up as after an error."""

    def end(number: int, frame: object) -> None:
        sys.exit(0)

    if threading.current_thread() is not threading.main_thread():  # somebody runs the command within a program
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _start(situation: Situation, settings: Settings, model: str | None, model_id: str | None, out: Output) -> int:
    from openllm import doctor

    for line in doctor.relaxed(settings.engine, settings.server):
        out.say(f"UNSAFE: {line}.", fg="yellow")
    resolved, backend = find_model(settings, model, model_id, out)
    engine = attrs.evolve(settings.engine, backend=backend)
    from openllm.engine.placement import place
    from openllm.engine.process import EarlyHost

    server = settings.server
    first = place(engine, server.engines, workers_per_resource=server.workers_per_resource)[0]
    early = EarlyHost(first)  # imports its framework while this process imports what it needs itself
    try:
        situation.resolved = resolved
        refuse(situation, (*doctor.BEFORE_LOADING, *lock_checks(settings)))
        return _serve(settings, engine, resolved, early.launch, out)
    finally:
        early.close()


def _serve(
    settings: Settings, engine: EngineOptions, resolved: ResolvedModel | None, launch: Launcher, out: Output
) -> int:
    from openllm.compose import build
    from openllm.server.run import serve as run
    from openllm_core.config.variables import unread

    configuration = None
    if settings.fields or settings.file_fields:
        family = resolved.family if resolved is not None else None
        configuration = configure(family, settings.fields, settings.file_fields)
    composed = build(engine, settings.server, resolved, launch=launch, config=configuration, store=settings.store)
    for note in [*composed.notes, *unread(os.environ)]:
        out.fact("Ignored", note.removeprefix("ignored: "))
    adapters = composed.service.adapters
    if adapters.max_adapters:
        names = ", ".join(adapters.names) or "none yet"
        out.fact(
            "Adapters", names, f"of {adapters.max_adapters} at most; default: {adapters.default or 'the bare base'}"
        )
    show = Startup(composed, settings, out)
    try:
        code = run(
            composed,
            settings.server,
            on_listening=show.listening,
            on_ready=show.ready,
            on_grpc=show.listening_grpc,
            on_metrics=show.listening_metrics,
        )
    finally:
        show.end()
    if composed.engine.failure is not None:
        raise composed.engine.failure
    out.say("\nStopped.", dim=True)
    return code


def find_model(
    settings: Settings, model: str | None, model_id: str | None, out: Output
) -> tuple[ResolvedModel | None, str]:
    """The model's folder, fetched and converted where need be, and the backend; no folder for echo, which has none."""
    from openllm.backends import registry
    from openllm.serialisation import resolve

    if settings.engine.backend == "echo" and model is None and model_id is None:
        out.fact("Model", "echo", "answers with its prompt; no weights")
        return None, "echo"
    if settings.engine.backend != "auto":
        registry.get(settings.engine.backend)  # a wrong name is told before anything is fetched
    with out.progress() as progress:
        resolved = resolve(
            model,
            model_id=model_id,
            options=settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            allow_pickle_weights=settings.engine.converts_pickle,
            progress=progress,
        )
    out.fact("Model", resolved.served_name, resolved.how)
    backend, why = registry.choose(resolved.engine(settings.engine), resolved.architecture)
    out.fact("Backend", backend, why)
    return resolved, backend


class Startup:
    """Tells how the server comes up: where it listens, how loading goes, and how to talk to it.

    Its methods are called by the server; the bar is moved from a thread of its own, so that drawing never delays it.
    """

    def __init__(self, composed: Composed, settings: Settings, out: Output) -> None:
        self.composed = composed
        self.settings = settings
        self.out = out
        self.begun = time.monotonic()
        self.endpoint = ""
        self.grpc = ""
        self._note: Path | None = None
        self._done = threading.Event()
        self._loading: threading.Thread | None = None

    def listening(self, host: str, port: int) -> None:
        """The socket is bound; the model loads from here on."""
        self.endpoint = endpoint(host, port, tls=bool(self.settings.server.ssl_certfile))
        self._show_listening("Listening", self.endpoint, host)

    def listening_grpc(self, host: str, port: int) -> None:
        """The same of gRPC."""
        self.grpc = urlsplit(endpoint(host, port)).netloc
        self._show_listening("gRPC", self.grpc, host)

    def listening_metrics(self, host: str, port: int) -> None:
        """The same of /metrics alone."""
        self.out.fact("Metrics", f"{endpoint(host, port)}/metrics", "without a key, for this machine alone")

    def _show_listening(self, name: str, where: str, host: str) -> None:
        self.out.fact(name, where, f"on {host}, every address" if host in ("0.0.0.0", "::") else "")
        if self._loading is None:
            self._loading = threading.Thread(target=self._show_loading, name="loading-bar", daemon=True)
            self._loading.start()

    def ready(self) -> None:
        """The first token was generated."""
        from openllm.engine.placement import describe
        from openllm.engine.pool import EnginePool

        self.end_loading()
        info = self.composed.engine.info
        assert info is not None
        ready = Ready(
            endpoint=self.endpoint or self.grpc,
            model=self.composed.service.model.names[0],
            backend=info.backend,
            device=info.device,
            key_needed=has_keys(self.settings.server),
            protocol="http" if self.endpoint else "grpc",
        )
        self._note = remember(ready)
        self._decisions(info)
        engine = self.composed.engine
        if isinstance(engine, EnginePool):
            answering, count = engine.ready_of
            self.out.fact("Engines", f"{answering} of {count} ready", describe([one.options for one in engine.engines]))
        seconds = time.monotonic() - self.begun
        if self.out.format == "json":
            self.out.json(ready.as_data())
        elif self.out.format == "porcelain":
            self.out.data(ready.endpoint)
        self.out.say(f"\nReady in {seconds:.1f} s.", fg="green", bold=True)
        if self.out.pretty and self.out.log is None:
            self._invite(ready, generates=info.capabilities.generate)

    def _decisions(self, info: BackendInfo) -> None:
        """The device and why, then what the backend chose; it may name the device's reason itself."""
        said = {name: rest for name, _, rest in (line.partition(": ") for line in info.decisions)}
        if "device" not in said:
            asked = self.settings.engine.device != "auto"
            why = "asked for" if asked else "no GPU is visible" if info.device == "cpu" else "the visible GPU"
            said = {"device": f"{info.device} ({why})", **said}
        if info.dtype and "dtype" not in said:
            said["dtype"] = info.dtype
        for name, rest in said.items():
            value, _, why = rest.partition(" (")
            self.out.fact(name.capitalize(), value, why.removesuffix(")"))

    def _invite(self, ready: Ready, *, generates: bool) -> None:
        """Lines to copy; nothing stands before them, so that they work as they are."""
        if not self.endpoint:
            self.out.say("\nIn Python:", dim=True)
            self.out.say(grpc_snippet(ready, generates=generates) + "\n")
            self.out.fact("Stop", "Ctrl-C")
            return
        if generates:
            self._invite_to_chat(ready)
        else:
            self.out.say("\nIn a shell:", dim=True)
            self.out.say('openllm embed "A text." "Another text."' + elsewhere(ready) + "\n")
            self.out.fact("As OpenAI", openai_arguments(ready))
        self.out.fact("All routes", f"{ready.endpoint}/docs")
        self.out.fact("Stop", "Ctrl-C")

    def _invite_to_chat(self, ready: Ready) -> None:
        python = python_name()
        self.out.fact("In a browser", ready.endpoint)
        self.out.say("\nIn a shell:", dim=True)
        self.out.say(curl_line(ready))
        self.out.say("\nIn Python:" if python == "python" else f"\nIn Python ({python}):", dim=True)
        self.out.say(python_snippet(ready) + "\n")
        self.out.fact("As OpenAI", openai_arguments(ready))
        self.out.fact("Chat", "openllm chat" + elsewhere(ready))

    def end(self) -> None:
        """The server has stopped."""
        self.end_loading()
        forget(self._note)

    def end_loading(self) -> None:
        """Take the bar away."""
        self._done.set()
        if self._loading is not None:
            self._loading.join()

    def _show_loading(self) -> None:
        engine = self.composed.engine
        with self.out.progress() as bar:
            while not self._done.wait(POLL_S) and engine.state in ("loading", "restarting"):
                text, share = engine.progress
                bar(text or "Loading", share, None if share is None else 1.0)


def elsewhere(ready: Ready) -> str:
    """The option that names the server, where commands would not find it without."""
    return "" if ready.endpoint in LOCAL else f" --endpoint {ready.endpoint}"
