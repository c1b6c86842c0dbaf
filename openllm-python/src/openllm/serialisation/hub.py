"""Fetch a model from the Hugging Face hub: only the formats we read, resumable, every file checked.

Called by `importing.py` and `lookup.py`. huggingface_hub is imported inside functions only, and never when offline
is asked for. Knows nothing of the store's layout.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import attrs

from openllm_core.errors import (
    AdapterIncompatible,
    CorruptModel,
    MissingDependency,
    ModelNotFound,
    StoreError,
    UnknownModel,
    UnsafeConfiguration,
)

from .fetch import file_sizes, watch
from .formats import PICKLE_SUFFIXES, is_training_state
from .manifest import FileRecord, sha256_of
from .store import Progress

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_PART = re.compile(r"\d+_\w+")
_TIMEOUT_S = 10.0
_ONE_REQUEST_BYTES = 50 * 10**9  # huggingface_hub's limit for a file that comes in one answer
_NOTES = ".cache"  # huggingface_hub's folder of notes on what it fetched
_TEXTS = ("merges.txt", "vocab.txt")
_TEXT_SUFFIXES = (".json", ".jinja", ".model", ".tiktoken")


@attrs.frozen
class HubId:
    """`org/name` with an optional revision: branch, tag or commit."""

    id: str
    revision: str = ""

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """`org/name[:revision]`; None when the text cannot be one."""
        name, _, revision = text.partition(":")
        if not _ID.fullmatch(name) or ".." in name or "--" in name or name.endswith((".git", ".", "-")):
            return None
        return cls(name, revision)

    def __str__(self) -> str:
        return f"{self.id}:{self.revision}" if self.revision else self.id


@attrs.frozen
class HubFile:
    """One file of a repository: size in bytes, SHA-256 where the hub knows it."""

    name: str
    size: int
    sha256: str | None


@attrs.frozen
class HubPlan:
    """What will be fetched, all at one commit."""

    id: HubId
    commit: str
    files: tuple[HubFile, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files)


def cached(hub_id: HubId) -> Path | None:
    """The model's folder in the hub's own cache on this machine, without any connection; None when it is not there."""
    try:
        hub = _hub()
    except MissingDependency:
        return None
    try:
        found = hub.snapshot_download(hub_id.id, revision=hub_id.revision or None, local_files_only=True)
    except (OSError, ValueError, hub.errors.RevisionResolutionError):
        return None
    return Path(found)


def adapter_folder(hub_id: HubId, files: Sequence[str], *, offline: bool, endpoint: str | None = None) -> Path:
    """Folder of the hub's cache with an adapter's files; fetched where they are missing.

    Raises:
        AdapterIncompatible: the repository has not got them all.
        UnknownModel, ModelNotFound, StoreError: there is no such repository, or the hub cannot be reached.
    """
    hub = _hub()

    def folder(local_only: bool) -> Path:
        paths = [
            hub.hf_hub_download(
                hub_id.id, file, revision=hub_id.revision or None, local_files_only=local_only, endpoint=endpoint
            )
            for file in files
        ]
        return Path(paths[0]).parent

    with _translated(hub, hub_id):
        try:
            return folder(local_only=True)
        except hub.errors.LocalEntryNotFoundError:
            if offline:
                raise
        info = hub.HfApi(endpoint=endpoint).model_info(
            hub_id.id, revision=hub_id.revision or None, timeout=_TIMEOUT_S
        )  # says at once what is wrong
        siblings: list[Any] = info.siblings or []
        _refuse_incomplete(hub_id, files, [str(sibling.rfilename) for sibling in siblings])
        return folder(local_only=False)


def _refuse_incomplete(hub_id: HubId, files: Sequence[str], names: Sequence[str]) -> None:
    missing = [file for file in files if file not in names]
    if not missing:
        return
    pickles = [name for name in names if name.startswith("adapter_") and name.endswith(PICKLE_SUFFIXES)]
    if pickles and missing[0].endswith(".safetensors"):
        raise AdapterIncompatible(
            f"The adapter {hub_id} stores its weights as pickle ({pickles[0]}), which can run code.",
            hint="Ask its maker for safetensors, or save it again with PEFT's save_pretrained(), which writes them.",
        )
    raise AdapterIncompatible(f"{hub_id} is no adapter: it has no {missing[0]}.")


def plan(hub_id: HubId, *, trust_remote_code: bool, allow_pickle_weights: bool, endpoint: str | None = None) -> HubPlan:
    """Ask the hub what the model consists of and choose the files.

    Raises:
        UnknownModel: no such repository, or one that the token may not see.
        ModelNotFound: no such revision.
        UnsafeConfiguration: weights only as pickle.
        CorruptModel: nothing in it that we can serve.
        StoreError: the hub cannot be reached.
    """
    hub = _hub()
    with _translated(hub, hub_id):
        info = hub.HfApi(endpoint=endpoint).model_info(
            hub_id.id, revision=hub_id.revision or None, files_metadata=True, timeout=_TIMEOUT_S
        )
    siblings: list[Any] = info.siblings or []
    files = [
        HubFile(str(s.rfilename), int(s.size or 0), str(s.lfs.sha256) if s.lfs is not None else None)
        for s in siblings
        if "/" not in s.rfilename or _is_part(s.rfilename)
    ]
    names = wanted([f.name for f in files], str(hub_id), trust=trust_remote_code, allow_pickle=allow_pickle_weights)
    return HubPlan(hub_id, str(info.sha), tuple(f for f in files if f.name in names))


def names_in(folder: Path) -> list[str]:
    """Files of a model's folder that may be wanted: those in it, and what its parts say of themselves."""
    parts = (f"{file.parent.name}/{file.name}" for file in folder.glob("*/config.json"))
    return [file.name for file in folder.iterdir() if file.is_file()] + [name for name in parts if _is_part(name)]


def _is_part(name: str) -> bool:
    """Whether a file describes one step of a sentence encoder, as `1_Pooling/config.json` does."""
    folder, _, file = name.partition("/")
    return file == "config.json" and _PART.fullmatch(folder) is not None


def wanted(names: Sequence[str], model: str, *, trust: bool, allow_pickle: bool) -> list[str]:
    """Choose the files to fetch or copy: one weight format, tokenizer, configuration; code only when trusted.

    Raises:
        UnsafeConfiguration, CorruptModel: as `plan`.
    """
    small = [n for n in names if n in _TEXTS or n.endswith(_TEXT_SUFFIXES)]
    small = [n for n in small if not n.endswith(".index.json") and not n.startswith("adapter_")]
    if trust:
        small += [n for n in names if n.endswith(".py")]
    safe = [n for n in names if n.endswith(".safetensors") and not n.startswith("adapter_")]
    safe = [n for n in safe if n.startswith("model")] or safe
    if safe:
        return small + safe + [n for n in names if n.endswith(".safetensors.index.json")]
    ggufs = [n for n in names if n.endswith(".gguf")]
    if len(ggufs) == 1:
        return ggufs
    if ggufs:
        raise CorruptModel(
            f"{model} holds {len(ggufs)} GGUF files: {', '.join(ggufs[:3])}, …",
            hint="Fetch the one you want and start it by its path: `openllm start ./file.gguf`.",
        )
    pickles = [n for n in names if n.endswith(PICKLE_SUFFIXES) and not is_training_state(n)]
    pickles = [n for n in pickles if not n.startswith("adapter_")]
    if pickles and allow_pickle:
        return small + pickles + [n for n in names if n.endswith(".bin.index.json")]
    if pickles:
        raise UnsafeConfiguration(
            f"{model} has its weights only as pickle ({pickles[0]}), which can run code.",
            hint="Choose a revision with safetensors, or type --allow-pickle-weights to have them converted.",
            param="--allow-pickle-weights",
        )
    if "adapter_config.json" in names:
        raise CorruptModel(f"{model} is an adapter, not a model: it has no weights of its own.")
    raise CorruptModel(f"{model} has no weights that we read (*.safetensors or *.gguf).")


def download(
    chosen: HubPlan,
    folder: Path,
    *,
    check: Callable[[Path], None],
    progress: Progress | None = None,
    endpoint: str | None = None,
) -> dict[str, FileRecord]:
    """Fetch the plan's files into `folder`, small ones first; what an earlier attempt left there is used.

    Args:
        check: called when the small files are there and before any weights are fetched; raises to refuse.

    Returns:
        records of the files whose SHA-256 was compared with the hub's, by name.

    Raises:
        ModelNotFound: gated and not accepted; the message says where and which variable holds the token.
        CorruptModel: a file has another size or SHA-256 than the hub says.
        StoreError: the hub cannot be reached or the disk refused; what was fetched stays for the next attempt.
    """
    hub = _hub()
    hub.utils.disable_progress_bars()
    weights = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
    files = sorted(chosen.files, key=lambda f: (f.name.endswith(weights), f.name))
    checked = False
    known: dict[str, FileRecord] = {}
    with watch(lambda: sum(file_sizes(folder)), f"downloading {chosen.id}", chosen.size_bytes, progress):
        for file in files:
            if not checked and file.name.endswith(weights):
                check(folder)
                checked = True
            with _translated(hub, chosen.id):
                if file.sha256 is not None and file.size <= _ONE_REQUEST_BYTES:
                    _resume(chosen, file, folder, endpoint)
                else:
                    hub.hf_hub_download(
                        chosen.id.id, file.name, revision=chosen.commit, local_dir=str(folder), endpoint=endpoint
                    )
            if file.sha256 is not None:
                known[file.name] = _check_file(folder / file.name, file)
            elif (folder / file.name).stat().st_size != file.size:
                _refuse_file(folder / file.name, file)
    shutil.rmtree(folder / _NOTES, ignore_errors=True)
    return known


def _resume(chosen: HubPlan, file: HubFile, folder: Path, endpoint: str | None) -> None:
    """Fetch a large file, from the byte on where an earlier attempt ended: hf_hub_download would begin it anew."""
    target = folder / file.name
    if target.exists():
        return
    download = import_module("huggingface_hub.file_download")
    url = download.hf_hub_url(chosen.id.id, file.name, revision=chosen.commit, endpoint=endpoint)
    part = folder / _NOTES / "parts" / file.name
    part.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab") as out:
        if (there := out.tell()) > file.size:
            out.truncate(there := 0)
        headers = import_module("huggingface_hub.utils").build_hf_headers()
        download.http_get(url, out, resume_size=there, headers=headers, expected_size=file.size)
    os.replace(part, target)


def _check_file(path: Path, expected: HubFile) -> FileRecord:
    facts = path.stat()
    if facts.st_size != expected.size or sha256_of(path) != expected.sha256:
        _refuse_file(path, expected)
    return FileRecord(expected.name, facts.st_size, str(expected.sha256), facts.st_mtime_ns)


def _refuse_file(path: Path, expected: HubFile) -> NoReturn:
    size = path.stat().st_size
    path.unlink()
    raise CorruptModel(
        f"{expected.name} came with {size:,} bytes and is not the file the hub promises ({expected.size:,} bytes).",
        hint="Run it again; only this file is fetched anew.",
    )


def _hub() -> Any:
    try:
        hub = import_module("huggingface_hub")
        import_module("huggingface_hub.errors")
        import_module("huggingface_hub.utils")
    except ImportError:
        raise MissingDependency(
            "huggingface_hub is needed for a model of the hub.", hint="pip install huggingface_hub"
        ) from None
    return hub


@contextmanager
def _translated(hub: Any, hub_id: HubId) -> Generator[None]:
    errors = hub.errors
    try:
        yield
    except errors.GatedRepoError:
        raise ModelNotFound(
            f"{hub_id.id} is gated: its terms must be accepted first.",
            hint=f"Accept them at https://huggingface.co/{hub_id.id}, then set HF_TOKEN to a token of that account.",
        ) from None
    except errors.RepositoryNotFoundError:
        raise UnknownModel(
            f"The hub has no model {hub_id.id}, or it is private.",
            hint="Check the id; for a private model set HF_TOKEN to a token that may read it.",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelNotFound(
            f"{hub_id.id} has no revision {hub_id.revision or 'main'!r}.",
            hint=f"https://huggingface.co/{hub_id.id}/commits lists them.",
        ) from None
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HTTPError, OSError) as error:
        cause = str(error.__cause__ or error).strip().split("\n")[0][:200].rstrip(".")
        raise StoreError(
            f"{hub_id.id} could not be fetched from the hub: {cause or type(error).__name__}.",
            hint="Check the network (HF_ENDPOINT, HTTPS_PROXY), or give a folder: `openllm start ./folder`. "
            "`openllm start` without a model needs no hub.",
        ) from None
