"""The Containerfile of a Bento: BentoML's own text, made from values that cannot add a line to it.

Called by `containers.py` and `openllm get-containerfile`; `check` also by whoever writes values into a Bento. BentoML
puts names and values into its template as they are, so a line end in one would be a new instruction. What its template
lacks, a health check and another port than 3000, is added. Runs no engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from openllm_core.errors import CorruptModel, InvalidSetting

from .untracked import bentoml

if TYPE_CHECKING:
    from .bentos import Bento

NAME = "Containerfile"
TEMPLATE = "env/docker/Dockerfile.template"
"""Where a Bento keeps the file of `--dockerfile-template`; the folder is BentoML's."""
ENVIRONMENT = {"OPENLLM_HOST": "0.0.0.0", "UV_INDEX_STRATEGY": "unsafe-best-match", "XDG_RUNTIME_DIR": "/tmp"}
"""What the image of every Bento sets. In a container loopback reaches nobody, so we listen outside and want a key. PyTorch's
index has old versions of common packages beside torch; uv would look no further without the second. In the folder of the
third a server leaves its note, by which the health check finds it; no other user is in the container."""
IMAGE_FILE = Path(__file__).parent / "images" / NAME
"""What our own base images are built from."""
PORT = 3000  # BentoML's own, which its template exposes

IMAGE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?"
)
"""A reference of an image: registry, path, tag, digest."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PATH = re.compile(r"[A-Za-z0-9._][A-Za-z0-9._/+-]*")
PYTHON = re.compile(r"3(\.[0-9]{1,3}){0,2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def render(bento: Bento) -> str:
    """The Containerfile, as `bentoml containerize` uses it; with the Bento's own template where it was built with one.

    Raises:
        CorruptModel: an earlier BentoML made the Bento, in a layout that has no image.
        InvalidSetting: a value in it would change the file's instructions, or its template is wrong.
    """
    generate = bentoml("._internal.container.generate")
    docker: Any = import_module("_bentoml_impl.docker")
    image, envs = _image(bento), _mappings(bento.info.get("envs"))
    check(image, envs)
    variables = docker.get_templates_variables(
        bentoml("._internal.bento.bento").ImageInfo(**image),
        bento.path,
        enable_buildkit=True,
        add_header=True,
        envs=[env for env in envs if env.get("stage") != "build"],
        secret_envs=[env for env in envs if env.get("stage") == "build"],
    )
    environment = generate.build_environment()
    template = environment.get_template("base_v2.j2")
    own = bento.path / TEMPLATE
    if own.is_file():
        template = extended(environment, template, own.read_text(encoding="utf-8"))
    text = re.sub(r"\n{3,}", "\n\n", _filled(template, variables)).strip() + "\n"
    return _completed(text, _port(bento)) if bento.ours else text


def _completed(text: str, port: int) -> str:
    """The port that the Bento was built with, and the health check where its template has none of its own."""
    text = re.sub(rf"^EXPOSE {PORT}$", f"EXPOSE {port}", text, flags=re.MULTILINE)
    has_check = re.search(r"^\s*HEALTHCHECK\b", text, re.MULTILINE | re.IGNORECASE)
    return text if has_check else f"{text}\n{health_check()}\n"


def health_check() -> str:
    """The instruction of our base images: healthy is what answers `/readyz` with 200, on whatever port it was told to listen."""
    lines = IMAGE_FILE.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("HEALTHCHECK "))


def _port(bento: Bento) -> int:
    """The one that `bentoml serve` listens on."""
    for service in _mappings(bento.info.get("services")):
        value: Any = service
        for key in ("config", "http", "port"):
            value = cast("dict[str, Any]", value).get(key) if isinstance(value, dict) else None
        if isinstance(value, int) and 0 < value < 1 << 16:
            return value
    return PORT


def extended(environment: Any, base: Any, text: str) -> Any:
    """The template of `--dockerfile-template`: it extends `bento_base_template` and overrides its blocks.

    Args:
        environment: BentoML's, which is sandboxed.

    Raises:
        InvalidSetting: it is no template.
    """
    import jinja2

    functions = bentoml("._internal.container.generate").J2_FUNCTION
    try:
        return environment.from_string(text, globals={"bento_base_template": base, **functions})
    except jinja2.TemplateError as error:
        raise InvalidSetting(f"The Dockerfile template is wrong: {error}.", param="--dockerfile-template") from error


def check(image: Mapping[str, Any], envs: Iterable[Mapping[str, Any]]) -> None:
    """Refuse what would add or change an instruction, before it is written into a Bento and again when it is read.

    Args:
        image: `base_image`, `python_version`, `commands`, `post_commands`, `build_include`, as in bento.yaml.
        envs: `name` and `value` each.

    Raises:
        InvalidSetting: names the value.
    """
    _matches(IMAGE, "base image", image.get("base_image"))
    _matches(PYTHON, "Python version", image.get("python_version"))
    for path in image.get("build_include") or ():
        _matches(PATH, "path to include", path)
    for command in (*(image.get("commands") or ()), *(image.get("post_commands") or ())):
        one_command("command", str(command))
    for env in envs:
        _matches(VARIABLE, "variable name", env.get("name"))
        one_line("value of " + str(env.get("name")), env.get("value") or "")


def one_line(what: str, value: Any) -> str:
    """A value that stays on its line: no control character, no line separator of any script.

    Raises:
        InvalidSetting: it has one.
    """
    text = str(value)
    if _CONTROL.search(text):
        raise _unsafe(what, text)
    return text


def one_command(what: str, command: str) -> str:
    """A command that stays in its RUN: each line but the last goes on after a backslash, and no here-document begins.

    Raises:
        InvalidSetting: it does not.
    """
    lines = command.split("\n")
    goes_on = [line.endswith("\\") for line in lines]
    if not all(goes_on[:-1]) or goes_on[-1] or "<<" in command or any(_CONTROL.search(line) for line in lines):
        raise _unsafe(what, command)
    return command


def _matches(form: re.Pattern[str], what: str, value: Any) -> None:
    if not form.fullmatch(str(value)):
        raise _unsafe(what, value)


def _unsafe(what: str, value: Any) -> InvalidSetting:
    return InvalidSetting(
        f"The {what} {str(value)[:80]!r} cannot stand in a Containerfile.", hint="Choose a plain one."
    )


def _filled(template: Any, variables: Mapping[str, Any]) -> str:
    import jinja2

    try:
        return template.render(**variables)
    except jinja2.TemplateError as error:
        raise InvalidSetting(f"The Dockerfile template is wrong: {error}.", param="--dockerfile-template") from error


def _image(bento: Bento) -> dict[str, Any]:
    """The fields of the image that BentoML's template knows."""
    found: Any = bento.info.get("image")
    if not isinstance(found, dict):
        raise CorruptModel(f"{bento.tag} was built in an older layout, without an image.", hint="Build it again.")
    known = {"base_image", "python_version", "commands", "python_requirements", "post_commands", "build_include"}
    return {key: value for key, value in cast("dict[str, Any]", found).items() if key in known}


def _mappings(value: Any) -> list[dict[str, Any]]:
    entries = cast("list[Any]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", entry) for entry in entries if isinstance(entry, dict)]
