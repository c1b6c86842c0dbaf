"""The container engine of this machine: which one is there, and its build and push.

Called by `containers.py` and `base_images.py`. Docker, podman, nerdctl and buildah share the few words used here, so there is
one class for all. Knows nothing of Bentos or models; what an engine prints goes to stderr, because stdout is data.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from openllm_core.errors import InvalidSetting, OpenLLMError, ResourceError

ENGINES = ("docker", "podman", "nerdctl", "buildah")
"""In the order they are looked for."""
VARIABLE = "BENTOML_CONTAINERIZE_BACKEND"
"""Names the engine to use, as for BentoML."""
ANSWER_S = 20.0


class ContainerBuildFailed(OpenLLMError):
    """The container engine ended with an error; what it said stands above ours."""

    code = "container_build_failed"


@attrs.frozen
class ContainerEngine:
    """A program that makes images.

    Attributes:
        name: `docker`, `podman`, `nerdctl` or `buildah`.
        binary: its path.
    """

    name: str
    binary: str

    def build(
        self,
        context: Path,
        containerfile: Path,
        tags: Sequence[str],
        *,
        target: str | None = None,
        arguments: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        """Make an image.

        Args:
            context: folder that COPY reads from.
            tags: names of the image, at least one.
            target: stage to stop at; default: the last.
            arguments: build arguments (ARG).

        Raises:
            ContainerBuildFailed: the engine says no.
        """
        command = [self.binary, "build", "--file", str(containerfile)]
        for tag in tags:
            command += ["--tag", tag]
        if target:
            command += ["--target", target]
        for name, value in (arguments or {}).items():
            command += ["--build-arg", f"{name}={value}"]
        for name, value in (labels or {}).items():
            command += ["--label", f"{name}={value}"]
        self._run([*command, str(context)], f"build of {tags[0]}")

    def push(self, tag: str) -> None:
        """Send an image to its registry, with the engine's own credentials.

        Raises:
            ContainerBuildFailed: the engine says no.
        """
        self._run([self.binary, "push", tag], f"push of {tag}")

    def _run(self, command: list[str], what: str) -> None:
        environment = {"DOCKER_BUILDKIT": "1"} | os.environ  # an older docker reads RUN --mount only so
        try:
            code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, env=environment, check=False).returncode
        except OSError as error:
            raise ContainerBuildFailed(f"{self.binary} could not be run: {error.strerror}.") from error
        if code != 0:
            raise ContainerBuildFailed(
                f"The {what} with {self.name} ended with {code}.", hint="What the engine printed above says why."
            )


def find_engine(asked: str | None = None) -> ContainerEngine:
    """The engine asked for, that of the variable, or the first one that answers.

    Args:
        asked: a name of ENGINES; `buildx` is docker.

    Raises:
        InvalidSetting: no engine has that name.
        ResourceError: the engine, or any, is missing or does not answer; the message has each one's reason.
    """
    wanted = asked or os.environ.get(VARIABLE)
    if wanted == "buildx":
        wanted = "docker"
    if wanted and wanted not in ENGINES:
        raise InvalidSetting(f"There is no container engine {wanted!r}.", hint=f"One of {', '.join(ENGINES)}.")
    reasons: list[str] = []
    for name in (wanted,) if wanted else ENGINES:
        binary = shutil.which(name)
        if binary is None:
            reasons.append(f"{name} is not installed")
        elif (reason := _silent(binary)) is not None:
            reasons.append(f"{name} does not answer ({reason})")
        else:
            return ContainerEngine(name, binary)
    said = "; ".join(reasons)
    raise ResourceError(
        f"No container engine is there: {said}.",
        hint=f"Install one of {', '.join(ENGINES)}.",
        code="no_container_engine",
    )


def _silent(binary: str) -> str | None:
    """Why an engine cannot be used: the last line it says, where its daemon does not answer; None when it does."""
    try:
        done = subprocess.run(
            [binary, "info"], stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, check=False
        )
    except subprocess.TimeoutExpired:
        return f"silent for {ANSWER_S:.0f} s"
    except OSError as error:
        return str(error.strerror)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else f"exit code {done.returncode}"
