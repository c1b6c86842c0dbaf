"""`openllm build-base-container`: our base images, made with the container engine of this machine."""

from __future__ import annotations

from typing import Any, cast

import click

from openllm.bundle import base_images
from openllm.bundle.base_images import DEVICES, STRATEGIES, Device, build_container, supported_registries
from openllm.cli.command import Command, Session
from openllm.cli.options import read_settings
from openllm.cli.output import Output, output_option


@click.command("build-base-container", cls=Command)
@click.option(
    "--container-registry",
    type=click.Choice(supported_registries),
    multiple=True,
    default=("ecr",),
    show_default=True,
    envvar="OPENLLM_CONTAINER_REGISTRY",
    show_envvar=True,
    help="Whose name the images get; repeatable.",
)
@click.option(
    "--version-strategy",
    type=click.Choice(STRATEGIES),
    default="nightly",
    show_default=True,
    help="What the tags follow: the installed version, `latest`, or the commit (sha-…).",
)
@click.option(
    "--device", type=click.Choice(DEVICES), default="cuda", show_default=True, help="What torch and vLLM are built for."
)
@click.option("--push/--no-push", default=False, show_default=True, help="Send the images to their registries.")
@click.option("--machine", is_flag=True, hidden=True)
@output_option
@click.pass_obj
def command(
    session: Session,
    container_registry: tuple[str, ...],
    version_strategy: str,
    device: str,
    push: bool,
    machine: bool,
    output: str,
) -> None:
    """Make our base images: one to run, `docker run IMAGE start MODEL`, and one with -base in its tag to build Bentos on.

    The container engine is docker, podman, nerdctl or buildah, the first that answers, or the one that
    BENTOML_CONTAINERIZE_BACKEND names. It needs no GPU.
    """
    out = Output("json" if machine else output, session)
    made = build_container(
        container_registry,
        version_strategy,
        push,
        device=cast("Device", device),
        store=read_settings().store,
        say=lambda line: out.say(line, dim=True),
    )
    if out.format == "json":
        facts: dict[str, Any] = {**made, "image_sha": base_images.commit()}
        out.json(facts)
    else:
        for image in (image for images in made.values() for image in images):
            out.data(image)
