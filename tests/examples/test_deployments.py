"""The configurations of examples/: valid by the schemas of their programs, and in step with what OpenLLM takes and serves."""

from __future__ import annotations

import configparser
import copy
import json
import re
import shlex
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT7
from tests import npm, pypi
from tests.examples.conftest import EXAMPLES

from openllm.bundle.containerfile import IMAGE_FILE
from openllm.cli.failures import EXIT_CODES
from openllm.cli.start import command as start
from openllm.server.routes import health
from openllm_core.config.variables import known
from openllm_core.options import ServerOptions

CHECKED = ("compose", "kubernetes", "systemd")
KUBERNETES = "1.37.0"
DCLINT = "3.1.0"  # an npm package that carries the schema of the Compose specification
IMAGE = "ghcr.io/bentoml/openllm:latest-cpu"
COMPOSE = yaml.safe_load((EXAMPLES / "compose" / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "openllm.yaml").read_text(encoding="utf-8")))
UNIT = EXAMPLES / "systemd" / "openllm.service"


def given(words: list[str]) -> dict[str, Any]:
    """What `openllm start` takes of a command line; an unknown flag or a bad value raises."""
    assert words[0] == "start"
    return start.make_context("openllm start", words[1:]).params


def image_says(line: str) -> bool:
    """Whether our image is built so."""
    return line in IMAGE_FILE.read_text(encoding="utf-8")


# -- Compose


def test_compose_is_valid(tmp_path_factory: pytest.TempPathFactory):
    """By the schema of the Compose specification."""
    folder = Path(npm.NODE).parents[1] / f"dclint-{DCLINT}"
    npm.install(folder, "pack", f"dclint@{DCLINT}", "--pack-destination", str(folder))
    with tarfile.open(folder / f"dclint-{DCLINT}.tgz") as archive:
        file = archive.extractfile("package/schemas/compose.schema.json")
        assert file is not None
        schema = json.load(file)
    jsonschema.Draft7Validator(schema).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):  # the schema does look
        jsonschema.Draft7Validator(schema).validate({"services": {"openllm": {"imaged": IMAGE}}})


def test_compose_fits_the_server():
    """Its flags exist, the port is ours, it ends later than streams may, and the container can write where it must."""
    service = COMPOSE["services"]["openllm"]
    asked = given(service["command"])
    assert service["expose"] == [str(ServerOptions().port)] and image_says(f"EXPOSE {ServerOptions().port}")
    assert int(service["stop_grace_period"].removesuffix("s")) >= asked["drain_grace"] + 10
    assert service["image"] == IMAGE and "ports" not in service
    assert "OPENLLM_API_KEY" in known() and service["environment"]["OPENLLM_API_KEY"].startswith("${OPENLLM_API_KEY:?")
    assert service["volumes"] == ["models:/models"] and image_says("ENV BENTOML_HOME=/models")
    assert image_says("XDG_RUNTIME_DIR=/tmp") and image_says("--home-dir /var/lib/openllm") and image_says("--uid 1000")
    wanted = set(re.findall(r"\$\{(\w+)", (EXAMPLES / "compose" / "compose.yaml").read_text(encoding="utf-8")))
    offered = set(re.findall(r"^(\w+)=", (EXAMPLES / "compose" / ".env.example").read_text(encoding="utf-8"), re.M))
    assert wanted == offered
    assert f"openllm:{ServerOptions().port}" in (EXAMPLES / "compose" / "Caddyfile").read_text(encoding="utf-8")


# -- Kubernetes


@pytest.fixture(scope="module")
def kubernetes() -> Callable[[dict[str, Any]], jsonschema.Draft7Validator]:
    """What judges a manifest by Kubernetes' own schema, which a package carries."""
    archive = zipfile.ZipFile(pypi.wheel(f"kubernetes-validate=={KUBERNETES}"))
    folder = f"kubernetes_validate/kubernetes-json-schema/v{KUBERNETES}-local-strict"
    definitions = DRAFT7.create_resource(json.loads(archive.read(f"{folder}/_definitions.json")))
    known = Registry[Any]().with_resource("/api/_definitions.json", definitions)

    def validator(manifest: dict[str, Any]) -> jsonschema.Draft7Validator:
        group, _, version = manifest["apiVersion"].rpartition("/")
        name = "-".join(part for part in (manifest["kind"].lower(), group, version) if part)
        return jsonschema.Draft7Validator(json.loads(archive.read(f"{folder}/{name}.json")), registry=known)

    return validator


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest["kind"])
def test_manifests_are_valid(
    kubernetes: Callable[[dict[str, Any]], jsonschema.Draft7Validator], manifest: dict[str, Any]
):
    """By Kubernetes' own schema, which knows each field; one that it does not know is refused, at the bottom too."""
    kubernetes(manifest).validate(manifest)
    wrong = copy.deepcopy(manifest)
    (wrong["spec"].get("template") or wrong)["spec"]["relicas"] = 1
    assert not kubernetes(manifest).is_valid(wrong)


def test_manifests_fit_the_server():
    """Probes ask routes that are open without a key, on the port that we listen on; a pod ends later than its streams may."""
    kinds = {manifest["kind"]: manifest for manifest in MANIFESTS}
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    open_routes = {op.path for op in health.operations(None, ServerOptions()) if op.open}  # type: ignore[arg-type]
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} == {"/livez", "/readyz"} <= open_routes
    assert probes["readinessProbe"]["path"] == "/readyz" and probes["livenessProbe"]["path"] == "/livez"
    assert {ports[probe["port"]] for probe in probes.values()} == {ServerOptions().port}
    assert kinds["Service"]["spec"]["ports"][0]["targetPort"] in ports
    asked = given(container["args"])
    left = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= asked["drain_grace"] + left + 10
    assert container["image"] == IMAGE and pod["securityContext"]["runAsUser"] == 1000
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}


def test_manifests_keep_kubernetes_from_setting_our_variables():
    """For a service named openllm it would set OPENLLM_PORT to an address, which is one of our settings."""
    service = next(manifest for manifest in MANIFESTS if manifest["kind"] == "Service")
    assert f"{service['metadata']['name'].upper()}_PORT" in known()
    pod = next(manifest for manifest in MANIFESTS if manifest["kind"] == "Deployment")["spec"]["template"]["spec"]
    assert pod["enableServiceLinks"] is False


# -- systemd


def unit() -> dict[str, list[str]]:
    """The settings of the section [Service]; some stand there more than once."""
    text = UNIT.read_text(encoding="utf-8").partition("[Service]\n")[2].partition("\n[")[0]
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_fits_the_server():
    """Its flags exist, its codes are ours, it ends later than streams may, and what it writes lies where it may write."""
    service = unit()
    program, *words = shlex.split(service["ExecStart"][0])
    asked = given(words)
    assert program.endswith("/bin/openllm")
    assert int(service["TimeoutStopSec"][0]) >= asked["drain_grace"] + 10
    assert {int(code) for code in service["RestartPreventExitStatus"][0].split()} <= set(EXIT_CODES)
    variables = dict(word.split("=", 1) for line in service["Environment"] for word in line.split())
    writable = {
        "/var/lib/openllm": "StateDirectory",
        "/var/cache/openllm": "CacheDirectory",
        "/run/openllm": "RuntimeDirectory",
    }
    for name in ("BENTOML_HOME", "OPENLLM_HOME", "HOME", "XDG_RUNTIME_DIR"):
        (folder,) = [folder for folder in writable if variables[name].startswith(folder)]
        assert service[writable[folder]] == ["openllm"]
    assert asked["host"] == "0.0.0.0" and "OPENLLM_API_KEY=" in (EXAMPLES / "systemd" / "openllm.env").read_text()


def test_the_unit_is_valid(tmp_path: Path):
    """configparser reads its sections; systemd-analyze, where there is one, knows every setting and finds it well shut."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",))
    parser.read(UNIT, encoding="utf-8")
    assert parser.sections() == ["Unit", "Service", "Install"]
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    copy = tmp_path / "openllm.service"
    copy.write_text(UNIT.read_text(encoding="utf-8").replace("/opt/openllm/bin/openllm", "/bin/true"))
    for words in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run([analyze, *words, str(copy)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
