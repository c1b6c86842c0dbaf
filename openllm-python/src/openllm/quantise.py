"""Make a GPTQ checkpoint of a model and keep it in the store: behind `openllm quantize`.

Reads the sample texts, chooses groups that divide the model's layers, runs gptqmodel in a process of its own
(`backends.torch.gptq`) and hands what it wrote to the store. Imports no framework.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections import deque
from pathlib import Path
from threading import Thread
from typing import Any, cast

import attrs

from openllm.backends import checkpoint as checkpoints
from openllm.backends import quantisation
from openllm.finetune import read_dataset
from openllm.serialisation import ResolvedModel
from openllm.serialisation.derived import made_model
from openllm.serialisation.manifest import sources_of
from openllm.serialisation.store import Progress, Store, StoreEntry
from openllm_core.errors import CorruptModel, InvalidDataset, InvalidSetting, MissingDependency, OpenLLMError, from_dict
from openllm_core.options import StoreOptions

BITS = (2, 3, 4, 8)
GROUPS = (-1, 16, 32, 64, 128, 256, 512, 1024)  # -1: a whole row; what the kernels that read GPTQ have
LEAST_WORKERS = 4  # gptqmodel's pool of threads deadlocks or fails with fewer (7.6.0, two cores)
SAMPLE_CHARACTERS = 2048
MOST_SAMPLES = 256
_KEPT_LINES = 40


@attrs.frozen(kw_only=True)
class Calibration:
    """How a checkpoint is to be made.

    Attributes:
        bits: of a weight.
        group_size: weights that share a scale, at most; -1 for a whole row.
        texts: samples like those the model will read.
    """

    bits: int
    group_size: int
    texts: tuple[str, ...]


def sample_texts(path: Path) -> tuple[str, ...]:
    """Sample texts of a file: JSON lines as `openllm finetune` reads them, else plain text, paragraph by paragraph.

    Raises:
        InvalidDataset: it holds no text.
    """
    if path.suffix == ".jsonl":
        texts: list[str] = []
        for example in read_dataset(path).examples:
            turns = [message["content"] for message in example.messages or ()]
            texts.append(example.text or f"{example.prompt or ''}{example.completion or ''}" or "\n".join(turns))
    else:
        try:
            texts = _paragraphs(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            raise InvalidDataset(f"{path.name} is not text in UTF-8.", param="--calibration") from None
    found = tuple(text[:SAMPLE_CHARACTERS] for text in texts if text.strip())[:MOST_SAMPLES]
    if not found:
        raise InvalidDataset(f"{path.name} holds no text.", param="--calibration")
    return found


def _paragraphs(text: str) -> list[str]:
    """Paragraphs put together to samples of some length: short ones teach little about a model's activations."""
    samples: list[str] = [""]
    for paragraph in text.split("\n\n"):
        if len(samples[-1]) + len(paragraph) > SAMPLE_CHARACTERS:
            samples.append("")
        samples[-1] += paragraph.strip() + "\n\n"
    return samples


def need_gptqmodel() -> None:
    """Refuse before a model is fetched.

    Raises:
        MissingDependency: gptqmodel is not installed.
    """
    if importlib.util.find_spec("gptqmodel") is None:
        raise MissingDependency(
            "GPTQ checkpoints are made by gptqmodel, which is not installed.", hint='pip install "openllm[gptq]"'
        )


def fitting_group(path: Path, asked: int) -> int:
    """The largest group up to `asked` that divides the rows of every layer; -1, a whole row, where none does.

    Raises:
        InvalidSetting: the model has been quantised already.
    """
    checkpoint = checkpoints.read(path)
    if found := quantisation.stored(checkpoint):
        raise InvalidSetting(
            f"{path.name} is quantised already: {found}.", hint="Give the model that it was made from.", param="model"
        )
    if asked < 0:
        return -1
    rows = {
        shape[1]
        for file in checkpoint.files
        for name, (_, shape) in checkpoints.safetensors_tensors(file).items()
        if quantisation.is_linear(name, shape)
    }
    while asked >= 16 and any(size % asked for size in rows):
        asked //= 2
    return asked if asked >= 16 else -1


def quantise(
    model: ResolvedModel,
    how: Calibration,
    options: StoreOptions,
    *,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> StoreEntry:
    """Make the checkpoint, or find the one that was made of this model with these settings.

    Args:
        model: plain weights.
        how: its `group_size` divides the layers, see `fitting_group`.

    Raises:
        MissingDependency: gptqmodel is not installed.
        CorruptModel: gptqmodel cannot quantise this model.
        StoreError: the store has no room, or cannot be written.
    """
    store = Store(options)
    groups = f"{how.group_size}g" if how.group_size > 0 else "row"
    version = f"{model.tag.rpartition(':')[2] or 'made'}-{how.bits}bit-{groups}-{_digest(store, model, how)}"
    with made_model(store, f"{model.model_id}-GPTQ", version, model, progress) as place:
        if place.entry is None:
            order = {
                "source": str(model.path),
                "out": str(place.folder),
                "bits": how.bits,
                "group_size": how.group_size,
                "texts": list(how.texts),
                "trust_remote_code": trust_remote_code,
            }
            _run(store, order, model.served_name, progress)
        return place.publish()


def _digest(store: Store, model: ResolvedModel, how: Calibration) -> str:
    """What sets a checkpoint apart beside its settings: the samples, and the files of a folder that may be trained on."""
    known = store.find(model.tag)
    stored = known is not None and known.path == model.path  # it never changes; a copy of it has other times
    files = {} if stored else {path.name: path for path in checkpoints.read(model.path).files}
    facts = [list(how.texts), [attrs.astuple(record) for record in sources_of(files)]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]


def _run(store: Store, order: dict[str, Any], name: str, progress: Progress | None) -> None:
    """Run gptqmodel's process to its end."""
    if progress is not None:
        progress(f"quantising {name}: loading", 0, None)
    # Layers it is done with lie on the disk until all are: on the store's, where they are freed after a kill -9 too.
    with store.staging() as scratch:
        file = scratch / "order.json"
        file.write_text(json.dumps(order))
        # -P: a file named torch.py in the working directory must not be taken for torch.
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "openllm.backends.torch.gptq", str(file), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment() | {"TMPDIR": str(scratch)},
            cwd=scratch,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        assert child.stdout is not None and child.stderr is not None
        talk: deque[str] = deque(maxlen=_KEPT_LINES)
        reader = Thread(target=talk.extend, args=(child.stderr,), daemon=True)
        reader.start()
        try:
            error = _follow(child.stdout, name, progress)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            reader.join()
            child.stdout.close()
            child.stderr.close()
    if error is not None:
        raise error
    if code != 0:
        last = next((line.strip() for line in reversed(talk) if line.strip()), f"it ended with {code}")
        raise CorruptModel(f"{name} cannot be quantised: {last[:300]}")


def _follow(lines: Any, name: str, progress: Progress | None) -> OpenLLMError | None:
    """Pass on how far the process is; the error it ends with."""
    error: OpenLLMError | None = None
    for line in lines:
        try:
            said: Any = json.loads(line)
        except ValueError:
            continue
        facts = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
        if "error" in facts:
            error = from_dict(facts["error"])
        elif progress is not None and "layer" in facts:
            progress(f"quantising {name}: layer {facts['layer']} of {facts['layers'] or '?'}", 0, None)
    return error


def _environment() -> dict[str, str]:
    workers = str(max(LEAST_WORKERS, os.cpu_count() or 1))
    return {
        "GPTQMODEL_CPU_WORKERS": workers,
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUTF8": "1",
    }
