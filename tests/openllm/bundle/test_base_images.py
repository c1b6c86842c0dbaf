"""Our base images: what stands in their Containerfile, their names and tags, and which one a Bento is built on."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.openllm.bundle.containers import Engines, instructions, words

import openllm.bundle
from openllm.bundle import base_images, containerfile, wheels
from openllm.bundle.base_images import build_container, choose, get_base_container_tag
from openllm_core.errors import InvalidSetting, ResourceError
from openllm_core.options import StoreOptions

TEXT = containerfile.IMAGE_FILE.read_text(encoding="utf-8")
LINES = instructions(TEXT)


def stage(name: str) -> list[str]:
    """The instructions of one stage."""
    start = next(i for i, line in enumerate(LINES) if re.fullmatch(rf"FROM \S+ AS {name}", line))
    rest = LINES[start + 1 :]
    return rest[: next((i for i, line in enumerate(rest) if line.startswith("FROM ")), len(rest))]


def only(name: str, word: str) -> str:
    (line,) = [line for line in stage(name) if line.startswith(word + " ")]
    return line


# -- what is in them ----------------------------------------------------------------------------------------------


def test_hadolint_finds_nothing() -> None:
    """Not even advice, but for what the file says why it ignores."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, str(containerfile.IMAGE_FILE)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_slim_and_built_in_stages() -> None:
    """Every stage starts from a slim Python or another stage; compilers and our wheels stay in those before the last two."""
    bases = [line.split()[1] for line in LINES if line.startswith("FROM ")]
    names = [line.split()[3] for line in LINES if line.startswith("FROM ")]
    assert names == ["tools", "cpu", "cuda", "build", "base", "server"]
    assert set(bases) == {"${PYTHON_IMAGE}", "tools", "${DEVICE}", "base"}
    assert "ARG PYTHON_IMAGE=python:${PYTHON_VERSION}-slim-bookworm" in LINES
    assert not [line for line in stage("base") + stage("server") if "wheels" in line or " git" in line]
    copies = [line for line in stage("base") if line.startswith("COPY")]
    assert copies and all(line.startswith("COPY --from=build ") for line in copies)


def test_the_entry_point_is_our_command_line() -> None:
    """In exec form, with an init that passes signals on; alone it starts the default model."""
    assert json.loads(only("base", "ENTRYPOINT").removeprefix("ENTRYPOINT ")) == ["tini", "--", "openllm"]
    assert json.loads(only("base", "CMD").removeprefix("CMD ")) == ["start"]
    assert " tini" in only("base", "RUN")


def test_the_one_to_run_is_not_root() -> None:
    """Its user is a number, which a cluster can check; the one to build on stays root, or no Bento could install."""
    assert stage("server")[-1] == "USER 1000:1000"
    assert "USER" not in words("\n".join(stage("base")))


def test_it_listens_outside_and_says_its_health() -> None:
    """0.0.0.0 inside the image, so a key is wanted; healthy is what `openllm ps --ready` finds, by its note."""
    environment = only("base", "ENV")
    assert "OPENLLM_HOST=0.0.0.0" in environment and "XDG_RUNTIME_DIR=/tmp" in environment
    assert only("base", "EXPOSE") == "EXPOSE 3000"
    assert only("base", "HEALTHCHECK").endswith('CMD ["openllm", "ps", "--ready"]')
    assert only("base", "HEALTHCHECK") == containerfile.health_check()


def test_nothing_is_reported_from_an_image() -> None:
    """BentoML's own commands say nothing of their use either."""
    assert "BENTOML_DO_NOT_TRACK=True" in only("base", "ENV")


def test_the_cuda_image_has_the_kernels() -> None:
    """vLLM, whose wheel has flash attention; flashinfer, triton, gptqmodel; the build fails where one is missing."""
    cuda = only("cuda", "ENV")
    extras = re.search(r"EXTRAS=(\S+)", cuda)
    assert extras is not None and {"vllm", "gptq"} <= set(extras[1].split(","))
    assert 'KERNELS="torch vllm flashinfer-python triton gptqmodel bitsandbytes"' in cuda
    checks = [line for line in stage("build") if "KERNELS" in line]
    assert checks and "version(n)" in checks[0] and "import bentoml, transformers" in checks[0]
    assert "{EXTRAS}" in next(line for line in stage("build") if "uv pip install" in line)


def test_every_extra_of_the_images_exists() -> None:
    """The extras are those of the package."""
    from importlib.metadata import metadata

    known = set(metadata("openllm").get_all("Provides-Extra") or [])
    for device in base_images.DEVICES:
        extras = re.search(r"EXTRAS=(\S+)", only(device, "ENV"))
        assert extras is not None and set(extras[1].split(",")) <= known


def test_a_bento_links_to_what_its_base_has() -> None:
    """uv's cache is in the image, at the place and in the mode that uv reads there, from the same uv."""
    environment = only("base", "ENV")
    assert "UV_CACHE_DIR=/opt/uv/cache" in environment and "UV_LINK_MODE=symlink" in environment
    assert "UV_CACHE_DIR=/opt/uv/cache" in only("tools", "ENV")
    assert "COPY --from=build /usr/local/bin/uv /usr/local/bin/uv" in stage("base")


# -- names and tags -----------------------------------------------------------------------------------------------


def test_tags_follow_commits_releases_and_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """sha-<commit>, the version, or latest; -cpu without CUDA, -base for the one to build on."""
    monkeypatch.setattr(base_images, "commit", lambda: "0123456789abcdef0123456789abcdef01234567")
    monkeypatch.setattr(base_images, "installed_version", lambda name: "1.2.3")
    assert get_base_container_tag("nightly", base=False) == "sha-0123456"
    assert get_base_container_tag("release", device="cpu") == "1.2.3-cpu-base"
    assert get_base_container_tag("latest", device="cpu", base=False) == "latest-cpu"
    monkeypatch.setattr(base_images, "installed_version", lambda name: "1.2.3.dev4+gabc")
    assert containerfile.IMAGE.fullmatch(f"x:{get_base_container_tag('release')}")
    monkeypatch.setattr(base_images, "commit", lambda: None)
    with pytest.raises(InvalidSetting, match="git checkout"):
        get_base_container_tag("nightly")
    with pytest.raises(InvalidSetting, match="hourly"):
        get_base_container_tag("hourly")


def test_the_commit_is_that_of_this_tree() -> None:
    """Where openllm runs from a checkout, its commit; nothing for a package that is installed."""
    root = Path(__file__).resolve().parents[3]
    head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    assert base_images.commit() == (head.stdout.strip() or None)


def test_names_of_0_3_5_are_there() -> None:
    """`openllm.bundle` still has what programs took from it."""
    assert set(openllm.bundle.supported_registries) == {"docker", "gh", "ecr"}
    assert openllm.bundle.get_base_container_name("gh") == "ghcr.io/bentoml/openllm"
    assert openllm.bundle.CONTAINER_NAMES["docker"] == "docker.io/bentoml/openllm"
    assert openllm.bundle.RefResolver.from_strategy("latest").tag == "latest"
    with pytest.raises(InvalidSetting, match="quay"):
        openllm.bundle.get_base_container_name("quay")


# -- which one a Bento is built on --------------------------------------------------------------------------------


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "released", lambda: True)
    monkeypatch.setattr(base_images, "installed_version", lambda name: "1.2.3")


def test_ours_by_device_where_a_registry_answers(released: None) -> None:
    """The registries are asked in turn; the first that has the image of this version and device is taken."""
    asked: list[str] = []

    def has(image: str) -> bool:
        asked.append(image)
        return image.startswith("ghcr.io")

    image, why = choose(device="cpu", has=has)
    assert image == "ghcr.io/bentoml/openllm:1.2.3-cpu-base" and "cpu" in why
    assert asked == ["public.ecr.aws/y5w8i4y6/bentoml/openllm:1.2.3-cpu-base", image]
    assert choose(device="cuda", has=lambda image: True)[0] == "public.ecr.aws/y5w8i4y6/bentoml/openllm:1.2.3-base"


def test_else_a_slim_python(released: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where none has it, offline, or for a version that nobody published; the last two ask nobody."""

    def never(image: str) -> bool:
        raise AssertionError(image)

    assert choose(device="cuda", has=lambda image: False) == (None, "no registry answered for our image 1.2.3-base")
    assert choose(device="cuda", offline=True, has=never)[0] is None
    monkeypatch.setattr(wheels, "released", lambda: False)
    image, why = choose(device="cuda", has=never)
    assert image is None and "no release" in why


def test_a_registry_or_an_image_that_is_named_is_taken(released: None) -> None:
    """Without being asked: the engine may have it already."""

    def never(image: str) -> bool:
        raise AssertionError(image)

    assert choose(device="cuda", container_registry="docker", has=never)[0] == "docker.io/bentoml/openllm:1.2.3-base"
    assert (
        choose("registry.example:5000/team/base:1", device="cpu", has=never)[0] == "registry.example:5000/team/base:1"
    )
    for name in ("a\nRUN id", "a b", "$(id)", "a AS b", ""):
        with pytest.raises(InvalidSetting):
            choose(name, device="cpu", has=never)


def test_the_python_of_a_bento() -> None:
    """On our images it is theirs, whose packages lie there built; elsewhere the one that builds."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert base_images.python_of("ghcr.io/bentoml/openllm:latest-base") == base_images.PYTHON
    assert f"ARG PYTHON_VERSION={base_images.PYTHON}" in LINES
    assert base_images.python_of(None) == base_images.python_of("registry.example/base:1") == here


# -- making them --------------------------------------------------------------------------------------------------


def test_two_images_are_made_for_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one to run and the one to build on, with the names of each registry; pushed where asked."""
    engines = Engines(tmp_path)
    engines.add("docker")
    monkeypatch.setenv("PATH", str(engines.folder))
    made = build_container(
        ["gh", "docker"], "latest", True, device="cpu", store=StoreOptions(home=str(tmp_path / "home"))
    )
    assert made == {
        "gh": ["ghcr.io/bentoml/openllm:latest-cpu", "ghcr.io/bentoml/openllm:latest-cpu-base"],
        "docker": ["docker.io/bentoml/openllm:latest-cpu", "docker.io/bentoml/openllm:latest-cpu-base"],
    }
    first, second, *pushes = engines.calls
    assert [call["args"][1:] for call in pushes] == [["push", image] for images in made.values() for image in images]
    for call, target, suffix in ((first, "server", ""), (second, "base", "-base")):
        line = " ".join(call["args"])
        assert f"--tag ghcr.io/bentoml/openllm:latest-cpu{suffix} --tag docker.io/" in line
        assert f"--target {target}" in line and "--build-arg DEVICE=cpu" in line
        assert call["text"] == TEXT
        assert sorted(re.findall(r"wheels/(\w+)-", " ".join(call["files"]))) == [
            "openllm",
            "openllm_client",
            "openllm_core",
        ]
    left = [path for path in (tmp_path / "home").rglob("*") if path.name not in (".staging", "models")]
    assert left == []


def test_without_an_engine_their_context_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says where it lies and the command with its arguments."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("BENTOML_CONTAINERIZE_BACKEND", raising=False)
    with pytest.raises(ResourceError, match="docker is not installed") as caught:
        build_container(version_strategy="latest", device="cuda", store=StoreOptions(home=str(tmp_path / "home")))
    context = tmp_path / "home" / "containers" / "openllm"
    assert str(context) in str(caught.value.hint) and "--build-arg DEVICE=cuda" in str(caught.value.hint)
    assert (context / "Containerfile").read_text() == TEXT and (context / "wheels").is_dir()
