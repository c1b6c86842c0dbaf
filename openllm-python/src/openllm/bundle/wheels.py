"""Our own packages as wheels, made of what is installed and running here; for a Bento of a version no index has.

Called by `build.py`. Needs no build tool and no network: a wheel is a zip of the package, its metadata and a list of
hashes. Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from packaging.version import Version

OURS = {"openllm-core": "openllm_core", "openllm-client": "openllm_client", "openllm": "openllm"}
"""Distribution -> package, those needed first."""
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time a zip can hold: equal files make equal wheels
_TAG = "py3-none-any"


def released() -> bool:
    """Whether an index has the version that runs here: neither a development version nor from a folder, file or git."""
    return all(
        not Version(found.version).is_devrelease
        and Version(found.version).local is None
        and found.read_text("direct_url.json") is None
        for found in map(metadata.distribution, OURS)
    )


def embed(folder: Path) -> list[str]:
    """Write a wheel of each of our packages.

    Args:
        folder: where to; made when missing.

    Returns:
        their file names, those needed first.
    """
    folder.mkdir(exist_ok=True)
    return [_wheel(name, package, folder).name for name, package in OURS.items()]


def _wheel(name: str, package: str, folder: Path) -> Path:
    found = metadata.distribution(name)
    stem = f"{name.replace('-', '_')}-{found.version}"
    path = folder / f"{stem}-{_TAG}.whl"
    info = f"{stem}.dist-info"
    records: list[str] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in (*_files(package), *_metadata(found, info)):
            archive.writestr(zipfile.ZipInfo(member, _EPOCH), content, zipfile.ZIP_DEFLATED)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            records.append(f"{member},sha256={digest},{len(content)}")
        records.append(f"{info}/RECORD,,")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _EPOCH), "\n".join(records) + "\n")
    return path


def _files(package: str) -> Iterator[tuple[str, bytes]]:
    spec = util.find_spec(package)
    assert spec is not None and spec.origin is not None  # it runs this code, or is needed by it
    root = Path(spec.origin).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(root.parent).as_posix(), path.read_bytes()


def _metadata(found: metadata.Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    yield f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: openllm\nRoot-Is-Purelib: true\nTag: {_TAG}\n".encode()
    for name in ("METADATA", "entry_points.txt"):
        if (text := found.read_text(name)) is not None:
            yield f"{info}/{name}", text.encode()
