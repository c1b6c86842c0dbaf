"""Making the image of a Bento: which engine, what it is told, what it builds from, and what happens without one."""

from __future__ import annotations

import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.openllm.bundle.containers import Engines, make_bento
from tests.openllm.serialisation.faults.injector import forked, kill

from openllm.bundle import containers
from openllm.bundle.bentos import get
from openllm.bundle.containers import containerize
from openllm.bundle.engines import ContainerBuildFailed, ContainerEngine, find_engine
from openllm.serialisation import removal
from openllm.serialisation.store import Store
from openllm_core.errors import InvalidSetting, ModelNotFound, ResourceError
from openllm_core.options import StoreOptions


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    made = Engines(tmp_path)
    monkeypatch.setenv("PATH", str(made.folder))
    for name in ("BENTOML_CONTAINERIZE_BACKEND", "DOCKER_BUILDKIT"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def store(tmp_path: Path) -> StoreOptions:
    make_bento(tmp_path / "home")
    return StoreOptions(home=str(tmp_path / "home"))


def test_the_first_engine_that_answers_is_used(engines: Engines, store: StoreOptions) -> None:
    """docker without its daemon is passed over; podman builds, in the order docker, podman, nerdctl, buildah."""
    engines.add("docker", "info")
    engines.add("nerdctl")
    engines.add("podman")
    assert containerize("tiny-service:v1", store=store) == "tiny-service:v1"
    assert [call["args"][0] for call in engines.calls] == ["podman"]


def test_what_the_engine_is_told(engines: Engines, store: StoreOptions, capfd: pytest.CaptureFixture[str]) -> None:
    """One build with the Bento's tag as name, of a context with the Bento, its model and the Containerfile; BuildKit on."""
    engines.add("docker")
    said: list[str] = []
    containerize("tiny-service", store=store, say=said.append)
    (call,) = engines.calls
    assert call["args"][:3] == ["docker", "build", "--file"] and call["buildkit"] == "1"
    assert call["args"][4:6] == ["--tag", "tiny-service:v1"]
    assert call["args"][3] == call["args"][6] + "/Containerfile"
    assert {"bento.yaml", "src/service.py", "models/pt-tiny/v1/model.safetensors", "models/pt-tiny/latest"} <= set(
        call["files"]
    )
    assert call["text"].startswith("# ") and "FROM python:3.11-slim" in call["text"]
    assert said == ["building tiny-service:v1 with docker"]
    captured = capfd.readouterr()
    assert captured.out == "" and "engine output" in captured.err


def test_nothing_stays_behind(engines: Engines, store: StoreOptions) -> None:
    """The context is gone afterwards, built or failed; the Bento and the model are as they were."""
    home = Path(store.home)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    engines.add("docker")
    containerize("tiny-service:v1", store=store)
    engines.add("docker", "build")
    with pytest.raises(ContainerBuildFailed, match="build of tiny-service:v1 with docker ended with 3"):
        containerize("tiny-service:v1", store=store)
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before


def test_a_name_of_its_own_and_a_push(engines: Engines, store: StoreOptions) -> None:
    """With `push` the image goes to the registry that its name says."""
    engines.add("podman")
    name = "registry.example:5000/team/tiny:1"
    assert containerize("tiny-service:v1", image_tag=name, push=True, store=store) == name
    build, push = engines.calls
    assert build["args"][5] == name and push["args"] == ["podman", "push", name]
    engines.add("podman", "push")
    with pytest.raises(ContainerBuildFailed, match="push of"):
        containerize("tiny-service:v1", image_tag=name, push=True, store=store)


def test_without_an_engine_the_context_stays(engines: Engines, store: StoreOptions) -> None:
    """The error names each engine's reason, where the context lies, and the command that builds it where an engine is."""
    engines.add("docker", "info")
    with pytest.raises(
        ResourceError, match=r"docker does not answer \(engine says no\); podman is not installed"
    ) as caught:
        containerize("tiny-service:v1", store=store)
    context = Path(store.home).resolve() / "containers" / "tiny-service" / "v1"
    assert str(context) in str(caught.value.hint) and "docker build --tag tiny-service:v1" in str(caught.value.hint)
    assert caught.value.wire_code == "no_container_engine" and caught.value.exit_code == 71
    assert "FROM python:3.11-slim" in (context / "Containerfile").read_text()
    model = Path("models/pt-tiny/v1/model.safetensors")
    assert (context / model).samefile(
        Path(store.home) / model
    )  # linked: a model of many gigabytes takes no space twice
    with pytest.raises(ResourceError):
        containerize("tiny-service:v1", store=store)  # once more, over what lies there
    assert sorted(path.name for path in context.parent.parent.iterdir()) == ["tiny-service"]


def test_a_context_that_was_being_written_is_cleaned_up(store: StoreOptions) -> None:
    """What kill -9 left of one is gone at the next build: it would keep the files of models that were deleted."""

    def body() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "write_text", lambda *args, **kwargs: kill())  # once the files are linked
            containers.keep_context(get("tiny-service:v1", store), store)

    home = Path(store.home)
    weights = home / "models/pt-tiny/v1/model.safetensors"
    assert forked(body) == -signal.SIGKILL
    assert weights.stat().st_nlink == 2
    kept = containers.keep_context(get("tiny-service:v1", store), store)
    assert weights.stat().st_nlink == 2 and (kept / "models/pt-tiny/v1/model.safetensors").samefile(weights)


def test_two_at_once_keep_one_context(store: StoreOptions) -> None:
    """The second waits for the first and writes the context again; both name a whole one."""
    bento = get("tiny-service:v1", store)
    with ThreadPoolExecutor(8) as pool:
        kept = set(pool.map(lambda _: containers.keep_context(bento, store), range(40)))
    assert kept == {Path(store.home) / "containers/tiny-service/v1"}
    assert (kept.pop() / "Containerfile").is_file()
    assert (Path(store.home) / "models/pt-tiny/v1/model.safetensors").stat().st_nlink == 2


def test_a_context_goes_with_its_bento(store: StoreOptions) -> None:
    """`prune --include-bentos` frees what a kept context holds; another version's stays, and so does what is no context."""
    home = Path(store.home)
    make_bento(home, version="v2")
    for version in ("v1", "v2"):
        containers.keep_context(get(f"tiny-service:{version}", store), store)
    (home / "containers/openllm/wheels").mkdir(parents=True)
    (item,) = removal.find(Store(store), "tiny-service:v1", include_bentos=True)
    removal.remove(Store(store), item)
    assert [path.name for path in (home / "containers/tiny-service").iterdir()] == ["v2"]
    assert (home / "containers/openllm/wheels").is_dir()


def test_a_context_without_its_bento_is_found(store: StoreOptions) -> None:
    """`prune` lists a context whose Bento BentoML deleted, and deletes it; one whose Bento is there is no leftover."""
    home = Path(store.home)
    containers.keep_context(get("tiny-service:v1", store), store)
    assert [item.kind for item in removal.find(Store(store))] == []
    shutil.rmtree(home / "bentos")
    (item,) = removal.find(Store(store))
    assert (item.kind, item.tag, item.note) == ("context", "tiny-service:v1", "its Bento is gone")
    removal.remove(Store(store), item)
    assert list((home / "containers").iterdir()) == [] and removal.find(Store(store)) == []
    assert (home / "models/pt-tiny/v1/model.safetensors").stat().st_nlink == 1


def test_where_the_disk_has_no_links(store: StoreOptions, engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context is copied then."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(ResourceError):
        containerize("tiny-service:v1", store=store)
    copied = Path(store.home) / "containers/tiny-service/v1/models/pt-tiny/v1/model.safetensors"
    assert copied.read_bytes() == b"weights" and copied.stat().st_nlink == 1


def test_a_model_that_is_gone(engines: Engines, store: StoreOptions) -> None:
    """Said before the engine is asked for anything."""
    engines.add("docker")
    (Path(store.home) / "models/pt-tiny/v1").rename(Path(store.home) / "models/elsewhere")
    with pytest.raises(ModelNotFound, match="pt-tiny:v1"):
        containerize("tiny-service:v1", store=store)
    assert engines.calls == []


def test_the_engine_of_the_variable(engines: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """BENTOML_CONTAINERIZE_BACKEND decides, buildx being docker; what was asked for goes before it."""
    for name in ("docker", "podman", "buildah"):
        engines.add(name)
    monkeypatch.setenv("BENTOML_CONTAINERIZE_BACKEND", "buildah")
    assert find_engine().name == "buildah"
    assert find_engine("podman") == ContainerEngine("podman", str(engines.folder / "podman"))
    monkeypatch.setenv("BENTOML_CONTAINERIZE_BACKEND", "buildx")
    assert find_engine().name == "docker"
    monkeypatch.setenv("BENTOML_CONTAINERIZE_BACKEND", "nerdctl")
    with pytest.raises(ResourceError, match="nerdctl is not installed"):
        find_engine()  # never another than the one asked for
    monkeypatch.setenv("BENTOML_CONTAINERIZE_BACKEND", "kaniko")
    with pytest.raises(InvalidSetting, match="kaniko"):
        find_engine()
