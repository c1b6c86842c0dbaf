"""The bill of materials of a Bento: its models with the hash of every file, its adapters, and the Python packages it runs.

Called by `build.py` before a Bento is sealed. Writes CycloneDX 1.6 as JSON, which scanners read. Must not know how a Bento
is built. Formats: https://cyclonedx.org/docs/1.6/json/, https://github.com/package-url/purl-spec.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from openllm import distributions
from openllm.distributions import Distribution
from openllm.serialisation.manifest import FileRecord, Manifest, installed, sha256_of

SBOM_FILE = "sbom.cdx.json"
"""Name of the file: `*.cdx.json` is how CycloneDX's own tools find one."""
_SPEC = "1.6"


def write_sbom(
    folder: Path,
    *,
    name: str,
    version: str,
    models: Sequence[Manifest],
    adapters: Mapping[str, Path] | None = None,
    requirements: Iterable[str] = distributions.ENGINE,
) -> Path:
    """Write `folder/sbom.cdx.json`.

    Args:
        folder: where the Bento is put together.
        name, version: the Bento's.
        models: manifests of the stored models it carries (`StoreEntry.manifest`).
        adapters: the adapter folders it carries, by name; their files are hashed here.
        requirements: what it installs; the versions and licences written are those of this machine, with all that these
            requirements need. One that is not installed here is left out.

    Returns:
        the file.

    Raises:
        OSError: an adapter cannot be read, or the file not be written.
    """
    packages = distributions.installed(requirements)
    carried = [_model(model) for model in models]
    carried += [_adapter(adapter, path) for adapter, path in (adapters or {}).items()]
    libraries = [_library(package) for package in packages.values()]
    bento = {"type": "application", "bom-ref": f"bento:{name}:{version}", "name": name, "version": version}
    needs = [{"ref": bento["bom-ref"], "dependsOn": [part["bom-ref"] for part in (*carried, *libraries)]}]
    needs += [{"ref": _purl(p), "dependsOn": [_purl(packages[n]) for n in p.needs]} for p in packages.values()]
    document = {
        "$schema": f"http://cyclonedx.org/schema/bom-{_SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": _SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
            "tools": {"components": [{"type": "application", "name": "openllm", "version": installed("openllm")}]},
            "component": bento,
        },
        "components": [*carried, *libraries],
        "dependencies": needs,
    }
    file = folder / SBOM_FILE
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def _model(manifest: Manifest) -> dict[str, Any]:
    group, _, name = manifest.model_id.rpartition("/")
    facts = {
        "tag": manifest.tag,
        "source": "" if manifest.origin == "folder" else manifest.source,  # a folder's path is nobody's business
        "quantize": manifest.quantize,
    }
    parameters = {"architectureFamily": manifest.family, "modelArchitecture": manifest.architecture}
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model:{manifest.tag}",
        **({"group": group} if group else {}),
        "name": name,
        "version": manifest.revision or manifest.tag.partition(":")[2],
        "modelCard": {"modelParameters": {key: value for key, value in parameters.items() if value}},
        "properties": _properties(facts),
        "components": _files(f"model:{manifest.tag}", manifest.files),
    }
    if manifest.origin == "hub":
        place = "/".join(quote(part, safe="") for part in manifest.model_id.split("/"))
        found["purl"] = f"pkg:huggingface/{place}@{manifest.revision.lower()}"
    return found


def _adapter(name: str, folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [FileRecord(p.relative_to(folder).as_posix(), p.stat().st_size, sha256_of(p), 0) for p in paths]
    return {
        "type": "machine-learning-model",
        "bom-ref": f"adapter:{name}",
        "name": name,
        "properties": _properties({"kind": "adapter"}),
        "components": _files(f"adapter:{name}", files),
    }


def _files(owner: str, files: Iterable[FileRecord]) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "bom-ref": f"{owner}/{file.path}",
            "name": file.path,
            "hashes": [{"alg": "SHA-256", "content": file.sha256}],
            "properties": _properties({"size_bytes": str(file.size)}),
        }
        for file in files
    ]


def _library(package: Distribution) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(package),
        "name": package.name,
        "version": package.version,
        "purl": _purl(package),
    }
    if package.is_spdx:
        found["licenses"] = [{"expression": package.licence}]
    elif package.licence:
        found["licenses"] = [{"license": {"name": package.licence}}]
    return found


def _purl(package: Distribution) -> str:
    return f"pkg:pypi/{package.name}@{quote(package.version, safe='.-_~')}"


def _properties(facts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": f"openllm:{name}", "value": value} for name, value in facts.items() if value]
