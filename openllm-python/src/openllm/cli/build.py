"""`openllm build MODEL`: the model, imported where need be, and how to serve it, as a Bento; and as an image where asked.

Takes the flags of `openllm start` and writes those that were given into the Bento. `openllm.bundle` does the work;
`openllm.build` comes here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from openllm.cli import complete
from openllm.cli.command import GroupedOption, Session, apply_globals
from openllm.cli.generation import StartCommand, complete_id, configure, typed_fields
from openllm.cli.import_model import tag_prefix
from openllm.cli.options import Settings, config_option, read_settings, setting_options
from openllm.cli.output import Output, output_option
from openllm_core.errors import InvalidSetting, OpenLLMError
from openllm_core.options import EngineOptions, ServerOptions, StoreOptions
from openllm_core.settings import settings_of

if TYPE_CHECKING:
    from openllm.bundle.build import BuildOrder, Built
    from openllm.serialisation import StoreEntry

BENTO, CONTAINER = "Bento", "Container"
GIVEN = ("explicit", "environment", "file")
OF_THE_MACHINE = ("host", "port")  # from the environment they say where this machine listens
FILES = ("api_key_file", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs", "log_file")


@attrs.frozen(kw_only=True)
class Asked:
    """The options of `build` that `start` does not have."""

    model_version: str | None = None
    bento_version: str | None = None
    overwrite: bool = False
    build_ctx: Path | None = None
    enable_features: tuple[str, ...] = ()
    base_image: str | None = None
    dockerfile_template: str | None = None
    container_registry: str | None = None
    container_version_strategy: str = "release"
    format: str = "bento"
    containerize: bool = False
    push: bool = False
    force_push: bool = False
    machine: bool = False

    def __attrs_post_init__(self) -> None:
        if self.containerize and self.push:
            raise click.UsageError("--containerize makes an image here, --push sends the Bento away: give one of them.")
        if self.force_push and not self.push:
            raise click.UsageError("--force-push needs --push.")


def _bento_option(*words: str, **facts: Any) -> Any:
    return click.option(*words, cls=GroupedOption, group=BENTO, **facts)


def _container_option(*words: str, **facts: Any) -> Any:
    return click.option(*words, cls=GroupedOption, group=CONTAINER, **facts)


@click.command("build", cls=StartCommand)
@click.argument("model", required=False, shell_complete=complete.model)
@click.option(
    "--model-id",
    metavar="ID",
    envvar="OPENLLM_MODEL_ID",
    show_envvar=True,
    shell_complete=complete_id,
    help="Hub id or folder, where MODEL is a family.",
)
@click.option(
    "--model-version", metavar="TEXT", help="Version of the model's tag, for a folder; for a hub id its revision."
)
@_bento_option("--bento-version", metavar="TEXT", help="Version of the Bento's tag; default: the model's.")
@_bento_option("--overwrite", is_flag=True, help="Build again what is there under the same tag.")
@_bento_option(
    "--build-ctx",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder that relative paths of --adapter-id start from.",
)
@_bento_option(
    "--enable-features", metavar="NAME", multiple=True, help="Extras of openllm to install; repeatable, or with commas."
)
@_container_option(
    "--format",
    type=click.Choice(["bento", "container"]),
    default="bento",
    show_default=True,
    help="container: make an image of the Bento too, called as the Bento.",
)
@_container_option("--containerize", is_flag=True, help="The same as --format container.")
@_container_option(
    "--dockerfile-template",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="Jinja template that extends bento_base_template; - reads stdin.",
)
@_container_option(
    "--base-image", metavar="IMAGE", help="Build the container on this image; it needs Python with pip, or uv."
)
@_container_option(
    "--container-registry",
    type=click.Choice(["docker", "gh", "ecr"]),
    envvar="OPENLLM_CONTAINER_REGISTRY",
    show_envvar=True,
    help="Registry whose image of ours the container is built on; default: the first that answers, else Python's own.",
)
@_container_option(
    "--container-version-strategy",
    type=click.Choice(["release", "latest", "nightly"]),
    default="release",
    show_default=True,
    help="Which image of ours: of this release, the latest, or of this commit.",
)
@_container_option("--push", is_flag=True, help="Send the Bento to BentoCloud.")
@_container_option("--force-push", is_flag=True, help="With --push: replace what is there.")
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@config_option
@setting_options(EngineOptions, ServerOptions, StoreOptions)
@click.pass_context
def command(
    ctx: click.Context, model: str | None, model_id: str | None, output: str, config: Path | None, **typed: Any
) -> None:
    """Make a Bento that serves MODEL: a folder that `openllm start TAG`, `bentoml serve TAG` and a container run.

    MODEL is what `openllm start` takes; it is imported first, or checked where it is in the store (--fast skips that). All
    flags of `start` that are given, generation defaults like --temperature too, are what the Bento is served with.

    Its tag is <model>-service:<version of the model>. A Bento that is there already, built the same way, is used again.
    """
    asked, settings = taken_apart(ctx, typed, config)
    out = Output(output, ctx.obj)
    built = make(asked, settings, model or settings.model, model_id or settings.model_id, out)
    tell(built, out, machine=asked.machine)
    send(built, asked, settings, ctx.obj, out)


def taken_apart(ctx: click.Context, typed: dict[str, Any], config: Path | None) -> tuple[Asked, Settings]:
    """What was typed, as options of `build` and settings of `start`.

    Raises:
        click.UsageError: options that exclude each other.
        InvalidSetting: a value does not fit.
    """
    fields = typed_fields(ctx, typed)
    own = {name: typed.pop(name) for name in attrs.fields_dict(Asked)}
    if own["dockerfile_template"] is not None:
        own["dockerfile_template"] = own["dockerfile_template"].read()
    return Asked(**own), read_settings(typed, config, fields)


def make(asked: Asked, settings: Settings, model: str | None, model_id: str | None, out: Output) -> Built:
    """Import or check the model, and build.

    Raises:
        OpenLLMError: the model cannot be had, a setting does not fit, another Bento has the tag, …
    """
    from openllm.bundle.build import BuildOrder, build, find_built
    from openllm.bundle.requirements import check_features
    from openllm_core.families import registry as families

    features = check_features(asked.enable_features)
    adapters = adapter_folders(asked, settings)
    entry, backend = import_first(asked, settings, model, model_id, out)
    check_adapters(adapters, settings, entry)
    encoder = import_encoder(settings, entry, backend, out)
    named = families.get(model) if model is not None and model_id is not None else None
    family = named or (families.get(entry.family) if entry.family else None)
    name = family.name if family is not None else None
    order = BuildOrder(
        model=entry,
        encoder=encoder,
        family=name,
        config=configure(name, settings.fields, settings.file_fields),
        backend=backend,
        model_ids=tuple(family.model_ids) if family is not None else (),
        settings=given(settings),
        fields={**settings.file_fields, **settings.fields},
        adapters=adapters,
        features=features,
        version=asked.bento_version,
        template=asked.dockerfile_template,
        cpu=for_cpu(settings),
        overwrite=asked.overwrite,
    )
    if asked.base_image is not None or asked.container_registry is not None:
        order, _ = on_base(order, asked, settings)
    if (known := find_built(order, settings.store)) is not None:
        return known
    order, why = on_base(order, asked, settings)
    out.fact("Base image", order.base_image or "Python's own", why)
    with out.progress() as progress:
        return build(order, settings.store, progress)


def on_base(order: BuildOrder, asked: Asked, settings: Settings) -> tuple[BuildOrder, str]:
    """The order with what its container is built on, and why."""
    from openllm.bundle import base_images

    image, why = base_images.choose(
        asked.base_image,
        device="cpu" if order.cpu else "cuda",
        container_registry=asked.container_registry,
        strategy=asked.container_version_strategy,
        offline=settings.store.offline,
    )
    named = asked.base_image is not None or asked.container_registry is not None
    return attrs.evolve(order, base_image=image, base_named=named), why


def import_first(
    asked: Asked, settings: Settings, model: str | None, model_id: str | None, out: Output
) -> tuple[StoreEntry, str]:
    """The model in the store, and the backend that the Bento is made for."""
    from openllm.backends import registry
    from openllm.serialisation import Recipe, import_model

    if settings.engine.backend != "auto":
        registry.get(settings.engine.backend)
    recipe = Recipe(
        backend="pt" if settings.engine.backend == "auto" else tag_prefix(settings),
        version=asked.model_version,
        quantize=settings.engine.quantize,
    )
    with out.progress() as progress:
        entry = import_model(
            model,
            model_id=model_id,
            options=settings.store,
            trust_remote_code=settings.engine.trust_remote_code,
            allow_pickle_weights=settings.engine.converts_pickle,
            recipe=recipe,
            progress=progress,
        )
    out.fact("Model", entry.model_id, f"stored as {entry.tag}")
    quantize = settings.engine.quantize or entry.manifest.quantize or None
    engine = attrs.evolve(settings.engine, model_path=str(entry.path), quantize=quantize)
    backend, why = registry.choose(engine, entry.architecture)
    out.fact("Backend", backend, why)
    return entry, backend


def import_encoder(settings: Settings, entry: StoreEntry, backend: str, out: Output) -> StoreEntry | None:
    """The sentence encoder in the store, which the Bento takes along; None where the model makes embeddings itself.

    One that nobody named is left out, which is said, where it cannot be had: everything else of the Bento works without.

    Raises:
        OpenLLMError: the model of `--embedding-model` cannot be had.
    """
    from openllm.embedding_model import maker_of
    from openllm.serialisation import fetch, import_model

    named = settings.engine.embedding_model
    engine = attrs.evolve(settings.engine, backend=backend, model_path=str(entry.path))
    if named is None and maker_of(engine) != "encoder":
        return None
    try:
        with out.progress() as progress:
            found = import_model(
                named or fetch.EMBEDDING_MODEL.model_id,
                options=settings.store,
                trust_remote_code=settings.engine.trust_remote_code,
                allow_pickle_weights=settings.engine.converts_pickle,
                progress=progress,
            )
    except OpenLLMError as error:
        if named is not None:
            raise
        out.fact("Embeddings", "none: the model makes none", error.message)
        return None
    out.fact("Embeddings", found.model_id, f"stored as {found.tag}")
    return found


def given(settings: Settings) -> dict[str, Any]:
    """Settings of engine and server that somebody gave, as data.

    Nothing secret, and nothing that counts only when typed: neither may come out of a Bento.
    """
    found: dict[str, Any] = {}
    for options in (settings.engine, settings.server):
        for name, (_, fact) in settings_of(type(options)).items():
            source = settings.sources[name]
            if source not in GIVEN or fact.secret or fact.typed_only or name == "adapter_id":
                continue
            if source == "environment" and name in OF_THE_MACHINE:
                continue
            value: Any = getattr(options, name)
            if name in FILES and value:  # a Bento is served from any folder
                value = str(Path(value).expanduser().absolute())
            found[name] = [*value] if isinstance(value, tuple) else value
    return found


def for_cpu(settings: Settings) -> bool:
    """Whether the Bento is for a machine without GPU: as --device says, else as this machine is."""
    from openllm_core.resources.detect import machine, visible_gpus

    device = settings.engine.device
    if device not in ("auto", "cpu"):
        return False
    return device == "cpu" or not visible_gpus(machine(), device)


def adapter_folders(asked: Asked, settings: Settings) -> dict[str, Path]:
    """The adapters to carry, by name.

    Raises:
        click.UsageError: a relative path without --build-ctx, two of one name.
        OpenLLMError: there is no such adapter.
    """
    if not settings.engine.adapter_id:
        return {}
    from openllm.serialisation.adapters import AdapterStore, split

    found: dict[str, Path] = {}
    for text in settings.engine.adapter_id:
        source, name = split(text)
        if _is_relative(source, asked):
            if asked.build_ctx is None:
                raise click.UsageError(
                    f"--adapter-id {source}: a relative path needs --build-ctx, where it starts from."
                )
            source = str((asked.build_ctx / source).resolve())
        folder, _ = AdapterStore(settings.store).folder_of(source)
        if (name or "default") in found:
            raise click.UsageError(f"--adapter-id: two adapters are called {name or 'default'}; write PATH:NAME.")
        found[name or "default"] = folder
    return found


def check_adapters(folders: Mapping[str, Path], settings: Settings, entry: StoreEntry) -> None:
    """Hold them against the model, as a start does.

    Raises:
        AdapterIncompatible: one is broken, of a kind that is not served, or of another model.
        InvalidSetting: there are more than `--max-adapters`, or one has a name of the model's.
    """
    if not folders:
        return
    from openllm.adapters import bind

    texts = tuple(f"{folder}:{name}" for name, folder in folders.items())
    options = attrs.evolve(settings.engine, model_path=str(entry.path), model_id=entry.model_id, adapter_id=texts)
    bind(options, settings.store, settings.server.served_model_name)


def _is_relative(source: str, asked: Asked) -> bool:
    """Whether it is a relative path, and no name of the store or id of the hub."""
    if source.startswith(("/", "~")):
        return False
    return source.startswith(".") or ((asked.build_ctx or Path()) / source).is_dir()


def send(built: Built, asked: Asked, settings: Settings, session: Session, out: Output) -> None:
    """To BentoCloud, or into an image, where asked."""
    from openllm.bundle.containers import containerize, push_bento

    if asked.push:
        push_bento(built.bento.tag, context=session.context, force=asked.force_push)
        out.say(f"Pushed {built.bento.tag}.")
    elif asked.containerize or asked.format == "container":
        image = containerize(built.bento.tag, store=settings.store, say=lambda line: out.say(line, dim=True))
        out.say(f"Image {image}.", fg="green")


def tell(built: Built, out: Output, *, machine: bool = False) -> None:
    """The result: the tag, bento.yaml as JSON, or words and what comes next."""
    bento = built.bento
    trust = " --trust-remote-code" if built.own_code else ""
    refuse = "`bentoml serve` and a plain `docker run` refuse"
    if trust:
        out.fact("Own code", "the model brings Python code", f"{refuse} to run it")
    if encrypted := bool(bento.record.settings.get("ssl_certfile")):
        out.fact("TLS", "--ssl-certfile counts for `openllm start`", f"{refuse} to serve without")
    if machine:
        out.data(f"__tag__:{bento.tag}")
    elif out.format == "json":
        import yaml

        out.json(yaml.safe_load((bento.path / "bento.yaml").read_text(encoding="utf-8")))
    elif out.format == "porcelain":
        out.data(bento.tag)
    else:
        said = "Built." if built.fresh else "Already built this way; used again."
        out.say(said, fg="green" if built.fresh else None)
        out.data(bento.tag)
        out.say()
        out.fact(
            "Serve", f"openllm start {bento.tag}{trust}", "" if trust or encrypted else f"or: bentoml serve {bento.tag}"
        )
        out.fact("Image", f"bentoml containerize {bento.tag}", "or: openllm build … --containerize")
        if trust:
            out.fact("Run it", f"docker run … {bento.tag} openllm start{trust}", "trust is typed by whoever runs it")
        out.fact(
            "Move", f"bentoml export {bento.tag} $PWD/{bento.tag.replace(':', '-')}.tar.gz", "its model goes along"
        )


def build_in_process(arguments: Sequence[str]) -> Built:
    """What `openllm build` with these arguments does, without a word, for `openllm.build`.

    Raises:
        InvalidSetting: an argument does not fit.
        OpenLLMError: as the command.
    """
    session = Session()
    session.quiet = True
    try:
        with command.make_context("build", list(arguments), obj=session) as ctx:
            typed = dict(ctx.params)
            apply_globals(ctx, typed)
            model, model_id, config = (typed.pop(name) for name in ("model", "model_id", "config"))
            out = Output(typed.pop("output"), session)
            asked, settings = taken_apart(ctx, typed, config)
            built = make(asked, settings, model or settings.model, model_id or settings.model_id, out)
            send(built, asked, settings, session, out)
            return built
    except click.ClickException as error:
        raise InvalidSetting(error.format_message()) from None
